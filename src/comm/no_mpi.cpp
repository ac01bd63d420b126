// Stands in for comm/mpi/ in a build without MPI.
#include "base/error.h"
#include "comm/mpi/mpi_world.h"

namespace chorale::comm {
namespace {

[[noreturn]] void no_mpi() {
  throw Error(
      "this build has no MPI; install libopenmpi-dev and openmpi-bin and build again, or run the ranks as "
      "threads "
      "of one process");
}

}  // namespace

struct MpiWorld::Impl {};

MpiWorld::MpiWorld(MpiOptions) {
  no_mpi();
}
MpiWorld::~MpiWorld() = default;
int MpiWorld::rank() const {
  no_mpi();
}
int MpiWorld::size() const {
  no_mpi();
}
std::shared_ptr<Transport> MpiWorld::transport() const {
  no_mpi();
}
const std::vector<int>& MpiWorld::ranks_on_this_host() const {
  no_mpi();
}
const std::string& MpiWorld::host_of(int) const {
  no_mpi();
}
std::optional<int> MpiWorld::dead_peer(std::chrono::nanoseconds) const {
  no_mpi();
}
std::optional<CollectiveError> MpiWorld::failure(std::chrono::nanoseconds) const {
  no_mpi();
}
void MpiWorld::fail(int, std::string_view) {
  no_mpi();
}
void MpiWorld::abort(int) {
  no_mpi();
}

}  // namespace chorale::comm
