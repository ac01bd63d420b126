// The reference device: memory of the host under addresses that the host cannot follow, and queues that do
// their work on threads of their own, so that whoever takes device memory for the host's, or an op for
// finished, is found out.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/device.h"
#include "base/tensor.h"

namespace chorale::ref_device {

class WorkQueue;

class Driver final : public DeviceDriver {
 public:
  explicit Driver(int index = 0) : index_(index) {}
  DeviceKind kind() const override { return DeviceKind::ref; }
  std::string name() const override { return index_ == 0 ? "ref" : "ref:" + std::to_string(index_); }
  int index() const override { return index_; }
  std::string description() const override { return "the plain reference of every op"; }
  uint64_t free_memory() const override;
  std::unique_ptr<Queue> make_queue() override;
  std::byte* allocate(size_t bytes) override;
  // Waits until the device's queues are done with what they were given, as they may still use the memory.
  void release(std::byte* data, size_t bytes) noexcept override;
  std::byte* allocate_host(size_t bytes) override;
  void release_host(std::byte* data, size_t bytes) noexcept override;

  void add(WorkQueue& queue);
  void remove(WorkQueue& queue);

 private:
  const int index_;
  std::mutex mutex_;  // guards all below
  std::unordered_map<std::byte*, Buffer> memory_;
  std::vector<WorkQueue*> queues_;
};

class WorkQueue final : public Queue {
 public:
  explicit WorkQueue(Driver& driver);
  // Does what it was given first.
  ~WorkQueue() override;
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  Device device() const override { return Device(driver_); }
  void copy(const Tensor& source, const Tensor& target) override;
  // Once work has thrown, what comes after it is left out, until this throws the same.
  void synchronize() override;
  Event record() override;
  // Throws as synchronize() does, unless what has thrown was given after the event.
  void wait(const Event& event) override;
  void set_time_limit(std::chrono::duration<double> limit) override { time_limit_ = limit; }
  int64_t mark_time() override;
  std::vector<double> take_marks() override;
  void inject(DeviceFault fault) override;

  void enqueue(std::function<void()> work);
  void wait_for_all() noexcept;

 private:
  void work_loop();

  Driver& driver_;
  std::chrono::duration<double> time_limit_{0};
  std::deque<std::chrono::steady_clock::time_point> marks_;
  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::deque<std::function<void()>> work_;  // the first is under way
  uint64_t num_given_ = 0, num_done_ = 0;
  std::exception_ptr failure_;
  uint64_t failed_at_ = 0;  // the number of the work that has thrown
  bool stopping_ = false;
  std::thread thread_;
};

// The same memory under the address that the host can follow; only work of a queue may ask. Null stays null.
std::byte* follow(const std::byte* device_address);
// A view of the tensor that the host can follow; likewise. It must be the device's.
Tensor follow(const Tensor& tensor);

}  // namespace chorale::ref_device
