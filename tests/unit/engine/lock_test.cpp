// A decode step on one rank takes no lock, whatever the number of threads: their ops meet on atomics.
#include <atomic>
#include <filesystem>
#include <mutex>
#include <vector>

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include "engine/loaded_model.h"

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
    LoadOptions options;
    options.model_path = std::filesystem::path(CHORALE_SOURCE_DIR) / "models" / "tales-moe";
    options.threads = threads;
    options.max_total_tokens = 256;
    options.max_running_requests = 4;
    options.show_progress = false;
    LoadedModel model = LoadedModel::load(options);
    StepPlan plan;
    plan.token_ids = {5};
    plan.chunks = {{0, 1, 0, 0, 1}};
    plan.block_tables = {0};
    plan.logits_tokens = {0};
    model.runner().run(plan);
    const int64_t before = num_locks;
    for (int32_t position = 1; position < 30; ++position) {
      plan.chunks[0].first_position = position;
      model.runner().run(plan);
    }
    EXPECT_EQ(num_locks - before, 0) << threads << " threads";
  }
}

}  // namespace
}  // namespace chorale::engine
