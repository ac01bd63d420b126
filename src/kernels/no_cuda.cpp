// Stands in for kernels/cuda/ in a build without CUDA. Without a queue no op can be called.
#include "base/error.h"
#include "kernels/backend.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/kv_cache.h"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/partial_sums.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/sample.h"

namespace chorale::cuda {
namespace {

[[noreturn]] void no_cuda() {
  throw Error("this build has no CUDA; build with \"make build CUDA=1\", or run on the CPU");
}

}  // namespace

const Backend& backend() {
  no_cuda();
}
std::unique_ptr<DeviceDriver> open(int) {
  no_cuda();
}

int device_count() {
  return 0;
}
void check(int, const char*, int) {
  no_cuda();
}

Queue::Queue(int index, Device owner) : index_(index), owner_(owner) {
  no_cuda();
}
Queue::~Queue() = default;
void Queue::leaves_zero(const Tensor&) const {
  no_cuda();
}
bool Queue::is_zero(const Tensor&) const {
  no_cuda();
}
void Queue::enter() const {
  no_cuda();
}
void Queue::copy(const void*, void*, size_t) const {
  no_cuda();
}
void Queue::copy(const Tensor&, const Tensor&) {
  no_cuda();
}
void Queue::synchronize() const {
  no_cuda();
}
void Queue::synchronize() {
  no_cuda();
}
Event Queue::record() {
  no_cuda();
}
void Queue::wait(const Event&) {
  no_cuda();
}
void Queue::begin_recording() {
  no_cuda();
}
std::unique_ptr<Recording> Queue::end_recording() {
  no_cuda();
}
void Queue::replay(const Recording&) {
  no_cuda();
}
int64_t Queue::mark_time() {
  no_cuda();
}
std::vector<double> Queue::take_marks() {
  no_cuda();
}
void Queue::inject(DeviceFault) {
  no_cuda();
}

DeviceBuffer::DeviceBuffer(int, size_t) {
  no_cuda();
}
DeviceBuffer::DeviceBuffer(DeviceBuffer&&) noexcept = default;
DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&&) noexcept = default;
DeviceBuffer::~DeviceBuffer() = default;

void pack_rows(const Queue&, const Tensor&, const TiledLayout&, std::byte*, const PackRegion&) {
  no_cuda();
}

void embed(const Queue&, const Tensor&, const Tensor&, const Tensor&) {
  no_cuda();
}
void embed_bits(const Queue&, const Tensor&, const Tensor&, int64_t, const Tensor&) {
  no_cuda();
}
void bits_to_rows(const Queue&, const Tensor&, const Tensor&) {
  no_cuda();
}
void copy_rows(const Queue&, const Tensor&, const Tensor&) {
  no_cuda();
}
void gather_rows(const Queue&, const Tensor&, const Tensor&, const Tensor&) {
  no_cuda();
}
void rms_norm(const Queue&, const Tensor&, const Tensor&, float, const Tensor&) {
  no_cuda();
}
void rope_table(const Queue&, const Tensor&, const Tensor&, float, const Tensor&) {
  no_cuda();
}
void norm_rope(const Queue&, const Tensor&, const Tensor&, float, const Tensor&, const Tensor&) {
  no_cuda();
}
void choose_experts(const Queue&, const Tensor&, const RouteOptions&, const ChosenExperts&) {
  no_cuda();
}
void sort_by_expert(const Queue&, const ChosenExperts&, const ExpertRows&, const Tensor&) {
  no_cuda();
}
void route(const Queue&, const Tensor&, const RouteOptions&, const ChosenExperts&, const ExpertRows&,
           const Tensor&) {
  no_cuda();
}
void append_kv(const Queue&, const Tensor&, const Tensor&, const AttentionBatch&, const KvTilesView&) {
  no_cuda();
}
void norm_rope_append(const Queue&, const QkvRows&, const HeadNorms&, const Tensor&, const AttentionBatch&,
                      const KvTilesView&) {
  no_cuda();
}
void dispatch_rows(const Queue&, const Tensor&, const ChosenExperts&, const DispatchTable&, const RowFormat&,
                   const SendBuffers&) {
  no_cuda();
}
void add_returned(const Queue&, const Tensor&, const Tensor&, const Tensor&, const Tensor&) {
  no_cuda();
}
void count_experts(const Queue&, const Tensor&, const Tensor&) {
  no_cuda();
}
void count_tokens(const Queue&, int64_t, const Tensor&) {
  no_cuda();
}
void add_sums_norm(const Queue&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, float,
                   const Tensor&) {
  no_cuda();
}
void clear_sums(const Queue&, const Tensor&) {
  no_cuda();
}
void add_sums(const Queue&, const Tensor&, const Tensor&, const Tensor&) {
  no_cuda();
}

void matmul(const Queue&, const Tensor&, std::span<const TiledTarget>, Choice) {
  no_cuda();
}
void gated_matmul(const Queue&, const Tensor&, const TiledExperts&, const ExpertRows&, const Tensor&,
                  const ExpertOptions&) {
  no_cuda();
}
void order_free_matmul(const Queue&, const Tensor&, const TiledExperts&, const ExpertRows&, const Tensor&,
                       const ExpertOptions&) {
  no_cuda();
}
PartialSums order_free_partials(const Queue&, const Tensor&, const TiledExperts&, const ExpertRows&,
                                int64_t) {
  no_cuda();
}
int64_t partials_scratch_floats(int64_t, int64_t, int64_t) {
  no_cuda();
}
bool adds_partials(int64_t) {
  no_cuda();
}
void add_partials(const Queue&, const PartialSums&, const Tensor&, SumMode) {
  no_cuda();
}
void add_partials_norm(const Queue&, const PartialSums&, const Tensor&, const Tensor&, const NormWeight&,
                       const Tensor&) {
  no_cuda();
}
int64_t attention_scratch_floats(const KvTiles&, int64_t) {
  no_cuda();
}
void attention(const Queue&, const Tensor&, const KvTilesView&, const AttentionBatch&, int64_t, const Tensor&,
               const Tensor&) {
  no_cuda();
}

int64_t sample_scratch_bytes(int64_t) {
  no_cuda();
}
void sample(const Queue&, const SampleRows&, const Tensor&, const SampledRows&) {
  no_cuda();
}
void place_tokens(const Queue&, const Tensor&, const Tensor&, const Tensor&) {
  no_cuda();
}
void clear_counts(const Queue&, const Tensor&) {
  no_cuda();
}
void count_tokens(const Queue&, const Tensor&, bool, const Tensor&) {
  no_cuda();
}

}  // namespace chorale::cuda
