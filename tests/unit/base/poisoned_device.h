// A device for tests of what stands below the backends.
#pragma once

#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/device.h"
#include "base/error.h"
#include "base/tensor.h"

namespace chorale {

// A device whose addresses the host cannot follow: those of its memory with the highest bit set. What is
// given to its queue happens when the queue is synchronized.
class PoisonedDriver final : public DeviceDriver {
 public:
  explicit PoisonedDriver(std::string name, size_t capacity = SIZE_MAX)
      : name_(std::move(name)), capacity_(capacity) {}
  ~PoisonedDriver() override { EXPECT_EQ(used_, 0u) << "bytes were not released"; }
  DeviceKind kind() const override { return DeviceKind::ref; }
  std::string name() const override { return name_; }
  uint64_t free_memory() const override { return capacity_ - used_; }
  std::unique_ptr<Queue> make_queue() override;
  std::byte* allocate(size_t bytes) override {
    if (bytes > capacity_ - used_) throw_error("{} has no {} bytes left", name_, bytes);
    used_ += bytes;
    auto* memory = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{256}));
    std::memset(memory, 0, bytes);
    return poisoned(memory);
  }
  void release(std::byte* data, size_t bytes) noexcept override {
    used_ -= bytes;
    ::operator delete (poisoned(data), std::align_val_t{256});
  }
  std::byte* allocate_host(size_t bytes) override { return poisoned(allocate(bytes)); }
  void release_host(std::byte* data, size_t bytes) noexcept override { release(poisoned(data), bytes); }
  static std::byte* poisoned(std::byte* data) {
    return reinterpret_cast<std::byte*>(reinterpret_cast<uintptr_t>(data) ^ (uintptr_t{1} << 63));
  }

 private:
  std::string name_;
  size_t capacity_;
  size_t used_ = 0;
};

class LateQueue final : public Queue {
 public:
  explicit LateQueue(Device device) : device_(device) {}
  Device device() const override { return device_; }
  void copy(const Tensor& source, const Tensor& target) override {
    work_.push_back([source, target] {
      const auto element = static_cast<int64_t>(size_of(source.dtype()));
      for (int64_t r = 0; r < source.rows(); ++r)
        std::memcpy(address(target) + r * target.row_stride() * element,
                    address(source) + r * source.row_stride() * element,
                    static_cast<size_t>(source.columns() * element));
    });
  }
  void synchronize() override {
    for (const auto& work : work_) work();
    work_.clear();
  }
  int64_t mark_time() override { return num_marks_++; }
  std::vector<double> take_marks() override {
    return std::vector<double>(static_cast<size_t>(std::exchange(num_marks_, 0)));
  }
  Event record() override { return {1}; }
  void wait(const Event& event) override {
    if (event.number != 0) synchronize();
  }
  void inject(DeviceFault) override {}

 private:
  static std::byte* address(const Tensor& t) {
    return t.device().is_host_memory() ? t.bytes() : PoisonedDriver::poisoned(t.device_bytes());
  }
  Device device_;
  int64_t num_marks_ = 0;
  std::vector<std::function<void()>> work_;
};

inline std::unique_ptr<Queue> PoisonedDriver::make_queue() {
  return std::make_unique<LateQueue>(Device(*this));
}

}  // namespace chorale
