// What the CUDA backend stands on: queues of work, memory of a device, and errors. Plain C++, for code that
// is not compiled by nvcc; a build without CUDA has no_cuda.cpp in place of the rest of this folder.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "base/device.h"
#include "base/tensor.h"

// CUDA's own; cudaStream_t and cudaEvent_t are pointers to them.
struct CUstream_st;
struct CUevent_st;

namespace chorale::cuda {

// The GPUs that this process can use; 0 where there is no driver, and in a build without CUDA.
int device_count();

// Throws Error, which names the call, the device and CUDA's own words, unless `status`, a cudaError_t, is
// success.
void check(int status, const char* call, int device);

// Work of one GPU, done in the order in which it was given. Used by one thread at a time. Throws Error when
// the device cannot be used, or is of another architecture than the one that this build has code for.
class Queue final : public chorale::Queue {
 public:
  // `owner`: what its tensors say that they lie on.
  explicit Queue(int index, Device owner = {});
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;
  ~Queue() override;

  Device device() const override { return owner_; }
  int index() const { return index_; }
  int num_multiprocessors() const { return num_multiprocessors_; }
  CUstream_st* stream() const { return stream_; }

  // Sums (fixed_point.h) that a kernel has left as zero, so that they need not be cleared again: is_zero()
  // tells it once, since whoever asks writes to them next.
  void leaves_zero(const Tensor& sums) const;
  bool is_zero(const Tensor& sums) const;

  // Makes the device the calling thread's current one; what starts a kernel calls it first.
  void enter() const;

  // Copies between this device and the host, or within the device. Returns at once: host memory must stay as
  // it is until the next synchronize().
  void copy(const void* source, void* target, size_t bytes) const;
  void copy(const Tensor& source, const Tensor& target) override;

  // Returns when everything given so far has taken effect. Throws what has failed.
  void synchronize() const;
  void synchronize() override;
  Event record() override;
  void wait(const Event& event) override;
  void set_time_limit(std::chrono::duration<double> limit) override { time_limit_ = limit; }
  void set_watch(std::function<void()> watch) override { watch_ = std::move(watch); }
  void* native_handle() const override { return stream_; }

  // As CUDA graphs.
  bool can_record() const override { return true; }
  void begin_recording() override;
  std::unique_ptr<Recording> end_recording() override;
  void replay(const Recording& recording) override;

  int64_t mark_time() override;
  std::vector<double> take_marks() override;
  void inject(DeviceFault fault) override;

 private:
  bool polls() const { return time_limit_.count() > 0 || watch_ != nullptr; }
  template <typename Query>
  void await(const Query& query, const char* call) const;

  int index_;
  Device owner_;
  int num_multiprocessors_ = 0;
  CUstream_st* stream_ = nullptr;
  // What is maybe unused is so in a build without CUDA.
  // By turns: an event that has been taken again stands for a later place, which is reached later.
  [[maybe_unused]] std::array<CUevent_st*, 8> events_{};
  [[maybe_unused]] uint64_t num_events_ = 0;
  std::chrono::duration<double> time_limit_{0};
  std::function<void()> watch_;
  struct ZeroSums {
    const std::byte* data = nullptr;
    int64_t rows = 0;
  };
  mutable std::array<ZeroSums, 4> zero_sums_{};
  std::vector<CUevent_st*> marks_;  // of which the first num_marks_ are in use
  [[maybe_unused]] size_t num_marks_ = 0;
};

// A GPU as a device. Throws as Queue does, and names the flag.
std::unique_ptr<DeviceDriver> open(int index);

// Owns zeroed memory of a GPU, aligned to 256 bytes. Throws Error when there is not that much.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(int device, size_t bytes);
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer();

  int device() const { return device_; }
  std::byte* data() const { return data_; }  // the device's address, which the host never follows
  size_t size() const { return size_; }

 private:
  int device_ = 0;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace chorale::cuda
