// Stands in for the kernels of comm/nccl/ in a build without CUDA.
#include "base/error.h"
#include "comm/nccl/peer_kernels.h"
#include "comm/nccl/row_slots.h"

namespace chorale::comm {
namespace {

[[noreturn]] void no_cuda() {
  throw Error("this build has no CUDA; build with \"make build CUDA=1\"");
}

}  // namespace

namespace peer {

void reduce_scatter_sum(const Place&, const Group&, const int64_t*, std::span<const int64_t>, int64_t*) {
  no_cuda();
}
void gather(const Place&, const Group&, const std::byte*, std::span<const int64_t>, std::byte*, bool) {
  no_cuda();
}
void all_to_all(const Place&, const Group&, const Exchange&) {
  no_cuda();
}
bool can_reach(int, int) {
  return false;
}
void let_reach(int, int) {
  no_cuda();
}

}  // namespace peer

namespace nccl {

void enter(int) {
  no_cuda();
}
void fill_slots(const RowSlots&, const std::byte*, const int64_t*, std::byte*) {
  no_cuda();
}
void empty_slots(const RowSlots&, const std::byte*, const int64_t*, std::byte*, int64_t) {
  no_cuda();
}

}  // namespace nccl
}  // namespace chorale::comm
