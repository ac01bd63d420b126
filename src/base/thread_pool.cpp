#include "base/thread_pool.h"

#include <algorithm>

#include <sched.h>

#include "base/control_group.h"
#include "base/error.h"
#include "base/spin.h"

namespace chorale {
namespace {

// Waits until value differs from `old`; returns the new one.
template <typename T>
T wait_for_change(const std::atomic<T>& value, T old) {
  for (int spin = 0; spin < kSpinsBeforeSleep; ++spin) {
    const T current = value.load(std::memory_order_acquire);
    if (current != old) return current;
    relax_processor();
  }
  for (;;) {
    value.wait(old, std::memory_order_acquire);
    const T current = value.load(std::memory_order_acquire);
    if (current != old) return current;
  }
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads) {
  CHORALE_CHECK(num_threads >= 1, "num_threads = {}", num_threads);
  workers_.reserve(static_cast<size_t>(num_threads - 1));
  for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this, i] { worker_loop(i); });
}

ThreadPool::~ThreadPool() {
  stopping_.store(true, std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_acq_rel);
  epoch_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::take_tasks(int thread) {
  const int ranges = num_ranges();
  for (int i = 0; i < ranges; ++i) {
    const int range = (thread + i) % ranges;
    const int64_t end = range_begin(range + 1);
    std::atomic<int64_t>& next = ranges_[range].next;
    // A range that is done is only read: its line stays with all threads.
    while (next.load(std::memory_order_relaxed) < end) {
      const int64_t index = next.fetch_add(1, std::memory_order_relaxed);
      if (index < end) trampoline_(context_, index);
    }
  }
}

void ThreadPool::run(int64_t num_tasks, Trampoline trampoline, const void* context) {
  if (num_tasks <= 0) return;
  if (num_threads_ == 1 || num_tasks == 1) {
    for (int64_t i = 0; i < num_tasks; ++i) trampoline(context, i);
    return;
  }
  trampoline_ = trampoline;
  context_ = context;
  num_tasks_ = num_tasks;
  for (int i = 0; i < num_ranges(); ++i) ranges_[i].next.store(range_begin(i), std::memory_order_relaxed);
  working_.store(num_threads_ - 1, std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  take_tasks(0);
  for (int32_t left = working_.load(std::memory_order_acquire); left != 0;)
    left = wait_for_change(working_, left);
}

void ThreadPool::worker_loop(int thread) {
  uint32_t seen = 0;
  for (;;) {
    seen = wait_for_change(epoch_, seen);
    if (stopping_.load(std::memory_order_acquire)) return;
    take_tasks(thread);
    if (working_.fetch_sub(1, std::memory_order_acq_rel) == 1) working_.notify_one();
  }
}

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  const int affinity = CPU_COUNT(&set);
  const double quota = control_group_limits().processors.value_or(affinity);
  return std::clamp(static_cast<int>(std::min<double>(affinity, quota)), 1, 256);
}

}  // namespace chorale
