#include "base/tensor.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include <sys/mman.h>

namespace chorale {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

std::byte* map_pages(size_t bytes) {
  void* mapped =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED)
    throw_error("cannot allocate {} bytes of memory: {}", bytes, std::strerror(errno));
  if (bytes >= kHugePage)
    madvise(mapped, bytes, MADV_HUGEPAGE);  // a hint: without huge pages it is only slower
  return static_cast<std::byte*>(mapped);
}

}  // namespace

Buffer::Buffer(size_t bytes, Device device) : size_(bytes), device_(device) {
  if (bytes == 0) return;
  if (device.is_cpu()) {
    data_ = map_pages(bytes);
  } else {
    DeviceDriver& driver = *device.driver();
    data_ = device.is_host_memory() ? driver.allocate_host(bytes) : driver.allocate(bytes);
  }
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      device_(other.device_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(device_, other.device_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (device_.is_cpu()) {
    munmap(data_, size_);
  } else if (device_.is_host_memory()) {
    device_.driver()->release_host(data_, size_);
  } else {
    device_.driver()->release(data_, size_);
  }
}

}  // namespace chorale
