#include "kernels/ref_device/driver.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/memory_info.h"

namespace chorale::ref_device {
namespace {

// No address of a process has this bit, so to follow one that has ends the process.
constexpr uintptr_t kPoison = uintptr_t{1} << 63;

thread_local bool is_queue_thread = false;

std::byte* poisoned(std::byte* data) {
  return reinterpret_cast<std::byte*>(reinterpret_cast<uintptr_t>(data) | kPoison);
}

std::byte* bytes_of(const Tensor& tensor) {
  return tensor.device().is_host_memory() ? tensor.bytes() : follow(tensor).bytes();
}

void copy_elements(const Tensor& source, const Tensor& target) {
  const auto element = static_cast<int64_t>(size_of(source.dtype()));
  for (int64_t r = 0; r < source.rows(); ++r) {
    std::memcpy(bytes_of(target) + r * target.row_stride() * element,
                bytes_of(source) + r * source.row_stride() * element,
                static_cast<size_t>(source.columns() * element));
  }
}

}  // namespace

uint64_t Driver::free_memory() const {
  return available_memory();
}

std::unique_ptr<Queue> Driver::make_queue() {
  return std::make_unique<WorkQueue>(*this);
}

std::byte* Driver::allocate(size_t bytes) {
  return poisoned(allocate_host(bytes));
}

void Driver::release(std::byte* data, size_t bytes) noexcept {
  release_host(reinterpret_cast<std::byte*>(reinterpret_cast<uintptr_t>(data) & ~kPoison), bytes);
}

std::byte* Driver::allocate_host(size_t bytes) {
  Buffer buffer(bytes);
  std::byte* const data = buffer.data();
  const std::lock_guard lock(mutex_);
  memory_.emplace(data, std::move(buffer));
  return data;
}

void Driver::release_host(std::byte* data, size_t) noexcept {
  const std::lock_guard lock(mutex_);
  for (WorkQueue* queue : queues_) queue->wait_for_all();
  memory_.erase(data);
}

void Driver::add(WorkQueue& queue) {
  const std::lock_guard lock(mutex_);
  queues_.push_back(&queue);
}

void Driver::remove(WorkQueue& queue) {
  const std::lock_guard lock(mutex_);
  std::erase(queues_, &queue);
}

WorkQueue::WorkQueue(Driver& driver) : driver_(driver), thread_([this] { work_loop(); }) {
  driver_.add(*this);
}

WorkQueue::~WorkQueue() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
  driver_.remove(*this);
}

void WorkQueue::copy(const Tensor& source, const Tensor& target) {
  enqueue([source, target] { copy_elements(source, target); });
}

void WorkQueue::enqueue(std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    work_.push_back(std::move(work));
    ++num_given_;
  }
  changed_.notify_all();
}

void WorkQueue::wait_for_all() noexcept {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return work_.empty(); });
}

void WorkQueue::synchronize() {
  wait(record());
}

Event WorkQueue::record() {
  const std::lock_guard lock(mutex_);
  return {num_given_};
}

void WorkQueue::wait(const Event& event) {
  std::unique_lock lock(mutex_);
  const auto is_reached = [&] { return num_done_ >= event.number; };
  if (time_limit_.count() == 0) {
    changed_.wait(lock, is_reached);
  } else if (!changed_.wait_for(lock, time_limit_, is_reached)) {
    throw_error("{}: a step has not ended within {} s", driver_.name(), time_limit_.count());
  }
  if (failure_ && failed_at_ <= event.number) std::rethrow_exception(std::exchange(failure_, nullptr));
}

int64_t WorkQueue::mark_time() {
  auto& mark = marks_.emplace_back();  // where it stays
  enqueue([&mark] { mark = std::chrono::steady_clock::now(); });
  return std::ssize(marks_) - 1;
}

std::vector<double> WorkQueue::take_marks() {
  synchronize();
  std::vector<double> seconds;
  for (const auto& mark : marks_)
    seconds.push_back(std::chrono::duration<double>(mark - marks_.front()).count());
  marks_.clear();
  return seconds;
}

void WorkQueue::inject(DeviceFault fault) {
  enqueue([fault, name = driver_.name()] {
    while (fault == DeviceFault::hang) std::this_thread::sleep_for(std::chrono::seconds(1));
    throw_error("{}: a failure was asked for", name);
  });
}

void WorkQueue::work_loop() {
  is_queue_thread = true;
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !work_.empty(); });
    if (work_.empty()) return;
    const bool skipped = failure_ != nullptr;
    lock.unlock();
    std::exception_ptr failure;
    try {
      if (!skipped) work_.front()();
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    ++num_done_;
    if (failure) {
      failure_ = failure;
      failed_at_ = num_done_;
    }
    work_.pop_front();
    changed_.notify_all();
  }
}

std::byte* follow(const std::byte* device_address) {
  const auto address = reinterpret_cast<uintptr_t>(device_address);
  CHORALE_CHECK(is_queue_thread, "memory of the reference device outside its queues");
  CHORALE_CHECK(address == 0 || (address & kPoison) != 0, "memory of the host in an op of another device");
  return reinterpret_cast<std::byte*>(address & ~kPoison);
}

Tensor follow(const Tensor& tensor) {
  return Tensor(follow(tensor.device_bytes()), tensor.dtype(), tensor.rows(), tensor.columns(),
                tensor.row_stride());
}

}  // namespace chorale::ref_device
