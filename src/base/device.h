// A device: where memory lies and where ops run.
//
// A Device is a value: copies name the same device, and a default-constructed one is the CPU. What a device
// can do comes from its DeviceDriver, of which there is one for each device that is open; a backend brings
// the class (kernels/), and whoever opened the device keeps it until all memory and queues of the device are
// gone.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace chorale {

class Queue;
class Tensor;

enum class DeviceKind : uint8_t {
  cpu,
  ref,   // the plain reference of every op, with memory that the host cannot follow: for tests
  cuda,  // an NVIDIA GPU
};

// What a backend brings for one device: its memory and its queues. Thread-safe.
class DeviceDriver {
 public:
  virtual ~DeviceDriver() = default;
  virtual DeviceKind kind() const = 0;
  // As flags and messages name it, such as "cuda:0", and what it is, such as "NVIDIA H200".
  virtual std::string name() const = 0;
  virtual std::string description() const { return name(); }
  // Which of the devices of its kind it is, as its libraries count them.
  virtual int index() const { return 0; }
  // Bytes that can still be allocated, as far as is known.
  virtual uint64_t free_memory() const = 0;
  virtual std::unique_ptr<Queue> make_queue() = 0;
  // Zeroed memory, aligned to 256 bytes at the least. Throws Error, which names the device, when there is not
  // that much. The address is the device's own: the host computes with it and never follows it.
  virtual std::byte* allocate(size_t bytes) = 0;
  virtual void release(std::byte* data, size_t bytes) noexcept = 0;
  // Likewise of the host's memory, of the sort that the device copies from and to without the host's help.
  virtual std::byte* allocate_host(size_t bytes) = 0;
  virtual void release_host(std::byte* data, size_t bytes) noexcept = 0;
};

class Device {
 public:
  Device() = default;  // the CPU
  // The driver must outlive the device's memory and queues.
  explicit Device(DeviceDriver& driver) : driver_(&driver) {}

  // Where the host keeps what it exchanges with this device: memory of the host, of the device's own sort
  // (DeviceDriver::allocate_host) where it has one.
  Device staging() const {
    Device host = *this;
    host.is_staging_ = !is_cpu();
    return host;
  }

  DeviceKind kind() const { return is_host_memory() ? DeviceKind::cpu : driver_->kind(); }
  bool is_cpu() const { return driver_ == nullptr; }
  // Its queues return before work is done, so the host has time for other things meanwhile.
  bool is_asynchronous() const { return !is_host_memory(); }
  // The host may follow its addresses.
  bool is_host_memory() const { return is_cpu() || is_staging_; }
  std::string name() const { return is_host_memory() ? "cpu" : driver_->name(); }
  std::string description() const { return is_host_memory() ? "cpu" : driver_->description(); }
  DeviceDriver* driver() const { return driver_; }  // null for the CPU
  friend bool operator==(const Device&, const Device&) = default;

 private:
  DeviceDriver* driver_ = nullptr;
  bool is_staging_ = false;
};

// Work that a queue has kept, to be given again and again; the addresses and sizes in it are those of the
// first time.
class Recording {
 public:
  virtual ~Recording() = default;
};

// How a device can break, for tests of what follows.
enum class DeviceFault : uint8_t {
  error,  // work that fails
  hang,   // work that never ends
};

// A place in a queue: it is reached when everything that was given before it has taken effect. A
// default-constructed one has been reached. A value without resources, good for as long as its queue.
struct Event {
  uint64_t number = 0;  // the queue's own count
};

// Work of one device, done in the order in which it was given; a backend's own kernels know the class behind
// it. Used by one thread at a time.
class Queue {
 public:
  virtual ~Queue() = default;
  virtual Device device() const = 0;
  // Copies elements of a matrix between this device and the host, or within the device; shapes and dtypes are
  // equal. Returns at once: host memory must stay as it is until the next synchronize().
  virtual void copy(const Tensor& source, const Tensor& target) = 0;
  // Returns when everything given so far has taken effect. Throws what has failed, and Error that names the
  // device when it takes longer than the time limit.
  virtual void synchronize() = 0;
  // The place behind what was given so far. Does not allocate.
  virtual Event record() = 0;
  // Returns when the place is reached, whatever was given after it. Throws as synchronize() does, but not for
  // what comes after the place.
  virtual void wait(const Event& event) = 0;
  // 0: none, as in the beginning.
  virtual void set_time_limit(std::chrono::duration<double>) {}
  // Is called now and then while the host waits for work that may itself wait for other devices, and once
  // more when that has ended; what it throws ends the wait. Nothing: none, as in the beginning.
  virtual void set_watch(std::function<void()>) {}
  // What the device's own libraries know the queue by, such as a cudaStream_t; null where there are none.
  virtual void* native_handle() const { return nullptr; }

  // Between the two, what is given is kept and not done; copies are not among it. Only where can_record().
  virtual bool can_record() const { return false; }
  virtual void begin_recording() {}
  virtual std::unique_ptr<Recording> end_recording() { return nullptr; }
  // Gives what was kept by this queue.
  virtual void replay(const Recording&) {}

  // Takes the device's time when everything given so far has taken effect; returns the mark's number, from 0
  // on.
  virtual int64_t mark_time() = 0;
  // The marks' times, in seconds since the first, which are then forgotten. Waits for them.
  virtual std::vector<double> take_marks() = 0;

  // Gives work that breaks so. After it the device is good for nothing but the end of the process.
  virtual void inject(DeviceFault fault) = 0;
};

}  // namespace chorale
