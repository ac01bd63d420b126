#include <utility>

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

int device_count() {
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

Queue::Queue(int device) : device_(device) {
  enter();
  const int major = attribute(cudaDevAttrComputeCapabilityMajor, device);
  const int minor = attribute(cudaDevAttrComputeCapabilityMinor, device);
  if (major != kMajor || minor != kMinor)
    throw_error("cuda:{}: expected a GPU of compute capability {}.{} (Hopper), found {}.{}", device, kMajor,
                kMinor, major, minor);
  num_multiprocessors_ = attribute(cudaDevAttrMultiProcessorCount, device);
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate", device);
}

Queue::~Queue() {
  cudaStreamDestroy(stream_);
}

void Queue::enter() const {
  check(cudaSetDevice(device_), "cudaSetDevice", device_);
}

void Queue::copy(const void* source, void* target, size_t bytes) const {
  enter();
  check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, stream_), "cudaMemcpyAsync", device_);
}

void Queue::synchronize() const {
  enter();
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize", device_);
}

DeviceBuffer::DeviceBuffer(int device, size_t bytes) : device_(device), size_(bytes) {
  if (bytes == 0) return;
  check(cudaSetDevice(device), "cudaSetDevice", device);
  void* data = nullptr;
  check(cudaMalloc(&data, bytes), "cudaMalloc", device);
  data_ = static_cast<std::byte*>(data);
  // Queues do not wait for the default stream, so the zeros have to be there.
  check(cudaMemset(data, 0, bytes), "cudaMemset", device);
  check(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize", device);
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
