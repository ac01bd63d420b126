// A fixed set of threads that run one parallel region at a time.
//
// The calling thread takes part as thread 0. Between regions the workers spin for some microseconds, because
// the next op of a step follows at once, and then sleep in the kernel.
//
// Tasks are cut into one range of neighbours for each thread, which runs those in order and then takes over
// what the others have left. So a thread reads long runs of memory, and the same ones in each step, and one
// that is held up holds up nobody else. Still, which thread runs which task is not determined; whatever the
// tasks compute must not depend on it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace chorale {

class ThreadPool {
 public:
  // num_threads >= 1, the caller included.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return num_threads_; }

  // Calls task(index) for every index in [0, num_tasks), each once, on any of the threads, and returns when
  // all are done. Tasks must not throw and must not start another region. One caller at a time. Does not
  // allocate.
  template <typename Task>
  void parallel(int64_t num_tasks, const Task& task) {
    static_assert(std::is_invocable_v<const Task&, int64_t>);
    run(
        num_tasks, [](const void* context, int64_t index) { (*static_cast<const Task*>(context))(index); },
        &task);
  }

 private:
  using Trampoline = void (*)(const void* context, int64_t index);
  // Many threads share ranges, so that the search for what is left ends soon.
  static constexpr int kMaxRanges = 16;
  struct alignas(64) Range {
    std::atomic<int64_t> next{0};
  };
  int num_ranges() const { return num_threads_ < kMaxRanges ? num_threads_ : kMaxRanges; }
  int64_t range_begin(int64_t range) const { return range * num_tasks_ / num_ranges(); }
  void run(int64_t num_tasks, Trampoline trampoline, const void* context);
  void worker_loop(int thread);
  void take_tasks(int thread);

  int num_threads_;
  // The current region; written by the caller before `epoch_` is advanced.
  Trampoline trampoline_ = nullptr;
  const void* context_ = nullptr;
  int64_t num_tasks_ = 0;
  Range ranges_[kMaxRanges];
  alignas(64) std::atomic<uint32_t> epoch_{0};   // advanced to start a region
  alignas(64) std::atomic<int32_t> working_{0};  // workers that have not finished the region
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> workers_;
};

// Threads this process may use, from 1 to 256: the size of its CPU affinity mask, or the quota of its control
// groups, rounded down, where that is smaller. More threads than a quota pays for only spin until the next
// period.
int available_cores();

}  // namespace chorale
