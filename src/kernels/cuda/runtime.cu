#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "kernels/cuda/runtime.h"

namespace chorale::cuda {
namespace {

// Binaries hold code of this architecture alone.
constexpr int kMajor = 9;
constexpr int kMinor = 0;

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, name, device), "cudaDeviceGetAttribute", device);
  return value;
}

}  // namespace

namespace {

// Before the first call that CUDA reads them at. A kernel that waits for one of another rank must not hold it
// up: kernels are loaded at the start, since to load one may wait for those that run, and there are as many
// ways to the device as CUDA permits, since what is in one goes by turns.
void prepare_environment() {
  static const bool done = [] {
    setenv("CUDA_MODULE_LOADING", "EAGER", 0);
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
    return true;
  }();
  static_cast<void>(done);
}

}  // namespace

int device_count() {
  prepare_environment();
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

void check(int status, const char* call, int device) {
  if (status == cudaSuccess) return;
  const auto error = static_cast<cudaError_t>(status);
  cudaGetLastError();  // an error that has been told is not told again by the next call
  throw_error("cuda:{}: {} failed: {} ({})", device, call, cudaGetErrorString(error),
              cudaGetErrorName(error));
}

Queue::Queue(int index, Device owner) : index_(index), owner_(owner) {
  enter();
  const int major = attribute(cudaDevAttrComputeCapabilityMajor, index);
  const int minor = attribute(cudaDevAttrComputeCapabilityMinor, index);
  if (major != kMajor || minor != kMinor)
    throw_error("cuda:{}: expected a GPU of compute capability {}.{} (Hopper), found {}.{}", index, kMajor,
                kMinor, major, minor);
  num_multiprocessors_ = attribute(cudaDevAttrMultiProcessorCount, index);
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate", index);
  for (CUevent_st*& event : events_)
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate", index);
}

Queue::~Queue() {
  for (const cudaEvent_t mark : marks_) cudaEventDestroy(mark);
  for (CUevent_st* event : events_) cudaEventDestroy(event);
  cudaStreamDestroy(stream_);
}

void Queue::leaves_zero(const Tensor& sums) const {
  is_zero(sums);  // not twice
  for (ZeroSums& zero : zero_sums_) {
    if (zero.data != nullptr) continue;
    zero = {sums.device_bytes(), sums.rows()};
    return;
  }
}

bool Queue::is_zero(const Tensor& sums) const {
  for (ZeroSums& zero : zero_sums_) {
    if (zero.data == sums.device_bytes()) return std::exchange(zero, {}).rows >= sums.rows();
  }
  return false;
}

void Queue::enter() const {
  check(cudaSetDevice(index_), "cudaSetDevice", index_);
}

void Queue::copy(const void* source, void* target, size_t bytes) const {
  enter();
  check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, stream_), "cudaMemcpyAsync", index_);
}

void Queue::copy(const Tensor& source, const Tensor& target) {
  if (source.empty()) return;
  const size_t element = size_of(source.dtype());
  const auto pitch = [&](const Tensor& t) { return static_cast<size_t>(t.row_stride()) * element; };
  const size_t row_bytes = static_cast<size_t>(source.columns()) * element;
  const auto rows = static_cast<size_t>(source.rows());
  if (rows == 1 || (pitch(source) == row_bytes && pitch(target) == row_bytes))
    return copy(source.device_bytes(), target.device_bytes(), rows * row_bytes);
  enter();
  check(cudaMemcpy2DAsync(target.device_bytes(), pitch(target), source.device_bytes(), pitch(source),
                          row_bytes, rows, cudaMemcpyDefault, stream_),
        "cudaMemcpy2DAsync", index_);
}

// Asks until the answer is not cudaErrorNotReady.
template <typename Query>
void Queue::await(const Query& query, const char* call) const {
  constexpr std::chrono::milliseconds kBetweenWatches{5};
  const auto start = std::chrono::steady_clock::now();
  auto next_watch = start + kBetweenWatches;
  while (true) {
    const cudaError_t status = query();
    if (status != cudaErrorNotReady) {
      check(status, call, index_);
      if (watch_) watch_();
      return;
    }
    const auto now = std::chrono::steady_clock::now();
    if (watch_ && now > next_watch) {
      watch_();
      next_watch = now + kBetweenWatches;
    }
    if (time_limit_.count() > 0 && now - start > time_limit_)
      throw_error("cuda:{}: a step has not ended within {} s", index_, time_limit_.count());
  }
}

void Queue::synchronize() const {
  enter();
  if (!polls()) return check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize", index_);
  await([this] { return cudaStreamQuery(stream_); }, "cudaStreamQuery");
}

Event Queue::record() {
  enter();
  const Event event{++num_events_};
  check(cudaEventRecord(events_[event.number % events_.size()], stream_), "cudaEventRecord", index_);
  return event;
}

void Queue::wait(const Event& event) {
  if (event.number == 0) return;
  enter();
  CUevent_st* const awaited = events_[event.number % events_.size()];
  if (!polls()) return check(cudaEventSynchronize(awaited), "cudaEventSynchronize", index_);
  await([=] { return cudaEventQuery(awaited); }, "cudaEventQuery");
}

namespace {

class Graph final : public Recording {
 public:
  Graph(cudaStream_t stream, int index) {
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture", index);
    const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiate", index);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() override { cudaGraphExecDestroy(executable_); }
  cudaGraphExec_t executable() const { return executable_; }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace

void Queue::begin_recording() {
  enter();
  zero_sums_ = {};  // nothing is known of the memory at the time when the work is done
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture", index_);
}

std::unique_ptr<Recording> Queue::end_recording() {
  zero_sums_ = {};
  return std::make_unique<Graph>(stream_, index_);
}

void Queue::replay(const Recording& recording) {
  enter();
  zero_sums_ = {};
  check(cudaGraphLaunch(static_cast<const Graph&>(recording).executable(), stream_), "cudaGraphLaunch",
        index_);
}

namespace {

__global__ void broken_kernel(bool hangs) {
  while (hangs) __nanosleep(1000);
  __trap();
}

}  // namespace

int64_t Queue::mark_time() {
  enter();
  if (num_marks_ == marks_.size()) {
    cudaEvent_t mark = nullptr;
    check(cudaEventCreate(&mark), "cudaEventCreate", index_);
    marks_.push_back(mark);
  }
  check(cudaEventRecord(marks_[num_marks_], stream_), "cudaEventRecord", index_);
  return static_cast<int64_t>(num_marks_++);
}

std::vector<double> Queue::take_marks() {
  synchronize();
  std::vector<double> seconds;
  for (size_t i = 0; i < num_marks_; ++i) {
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, marks_[0], marks_[i]), "cudaEventElapsedTime", index_);
    seconds.push_back(milliseconds * 1e-3);
  }
  num_marks_ = 0;
  return seconds;
}

void Queue::inject(DeviceFault fault) {
  enter();
  broken_kernel<<<1, 1, 0, stream_>>>(fault == DeviceFault::hang);
  check(cudaGetLastError(), "broken_kernel", index_);
}

void Queue::synchronize() {
  std::as_const(*this).synchronize();
}

namespace {

std::byte* allocate_on(int index, size_t bytes) {
  check(cudaSetDevice(index), "cudaSetDevice", index);
  void* data = nullptr;
  check(cudaMalloc(&data, bytes), "cudaMalloc", index);
  // Queues do not wait for the default stream, so the zeros have to be there.
  check(cudaMemset(data, 0, bytes), "cudaMemset", index);
  check(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize", index);
  return static_cast<std::byte*>(data);
}

class Driver final : public DeviceDriver {
 public:
  explicit Driver(int index) : index_(index), first_queue_(index) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties", index);
    description_ = properties.name;
  }

  DeviceKind kind() const override { return DeviceKind::cuda; }
  std::string name() const override { return fmt::format("cuda:{}", index_); }
  std::string description() const override { return description_; }
  int index() const override { return index_; }
  uint64_t free_memory() const override {
    size_t free = 0, total = 0;
    check(cudaSetDevice(index_), "cudaSetDevice", index_);
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo", index_);
    return free;
  }
  std::unique_ptr<chorale::Queue> make_queue() override {
    return std::make_unique<Queue>(index_, Device(*this));
  }
  std::byte* allocate(size_t bytes) override { return allocate_on(index_, bytes); }
  void release(std::byte* data, size_t) noexcept override { cudaFree(data); }
  std::byte* allocate_host(size_t bytes) override {
    void* data = nullptr;
    check(cudaSetDevice(index_), "cudaSetDevice", index_);
    check(cudaHostAlloc(&data, bytes, cudaHostAllocPortable), "cudaHostAlloc", index_);
    std::memset(data, 0, bytes);
    return static_cast<std::byte*>(data);
  }
  void release_host(std::byte* data, size_t) noexcept override { cudaFreeHost(data); }

 private:
  int index_;
  Queue first_queue_;  // says at once when the GPU cannot be used
  std::string description_;
};

}  // namespace

std::unique_ptr<DeviceDriver> open(int index) {
  prepare_environment();
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    throw_error("--device cuda: this machine has no NVIDIA driver (libcuda.so.1)");
  }
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    throw_error("--device cuda: no NVIDIA GPU can be used: {} ({})", cudaGetErrorString(status),
                cudaGetErrorName(status));
  }
  if (index >= count)
    throw_error("--device cuda:{}: this process can use {} GPU{}", index, count, count == 1 ? "" : "s");
  return std::make_unique<Driver>(index);
}

DeviceBuffer::DeviceBuffer(int device, size_t bytes) : device_(device), size_(bytes) {
  if (bytes == 0) return;
  data_ = allocate_on(device, bytes);
}

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : device_(other.device_),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) cudaFree(data_);
}

}  // namespace chorale::cuda
