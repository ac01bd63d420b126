// A decode step on one rank takes no lock, whatever the number of threads: their ops meet on atomics.
#include <atomic>
#include <mutex>

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include "unit/engine/decode_steps.h"

namespace {
std::atomic<int64_t> num_locks{0};
}

// In place of the C library's, for the whole program.
extern "C" int pthread_mutex_lock(pthread_mutex_t* mutex) noexcept {
  using Lock = int (*)(pthread_mutex_t*);
  static const auto real = reinterpret_cast<Lock>(dlsym(RTLD_NEXT, "pthread_mutex_lock"));
  num_locks.fetch_add(1, std::memory_order_relaxed);
  return real(mutex);
}

namespace chorale::engine {
namespace {

TEST(Locks, ADecodeStepTakesNone) {
  std::mutex mutex;
  const int64_t at_first = num_locks;
  { const std::lock_guard lock(mutex); }
  ASSERT_EQ(num_locks, at_first + 1) << "locks are counted";

  for (const int threads : {1, 2}) {
    LoadOptions options = decode_options();
    options.threads = threads;
    LoadedModel model = LoadedModel::load(options);
    DecodeSteps steps(model.runner());
    steps.run(0, 1);
    const int64_t before = num_locks;
    steps.run(1, 30);
    EXPECT_EQ(num_locks - before, 0) << threads << " threads";
  }
}

}  // namespace
}  // namespace chorale::engine
