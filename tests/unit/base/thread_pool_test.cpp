#include "base/thread_pool.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace chorale {
namespace {

// 20 threads are more than there are ranges of tasks.
TEST(ThreadPool, RunsEachTaskOnce) {
  for (const int threads : {1, 2, 3, 20}) {
    ThreadPool pool(threads);
    for (const int64_t tasks : {0, 1, 2, 3, 15, 16, 17, 1000}) {
      for (int region = 0; region < 3; ++region) {
        std::vector<std::atomic<int>> runs(static_cast<size_t>(tasks));
        pool.parallel(tasks, [&](int64_t i) { ++runs[static_cast<size_t>(i)]; });
        for (int64_t i = 0; i < tasks; ++i)
          ASSERT_EQ(runs[static_cast<size_t>(i)], 1)
              << "task " << i << " of " << tasks << ", " << threads << " threads";
      }
    }
  }
}

TEST(ThreadPool, OthersTakeOverWhatAThreadThatIsHeldUpLeaves) {
  ThreadPool pool(2);
  for (const int64_t held_up : {0, 50}) {  // the first task of either range
    constexpr int64_t kTasks = 100;
    std::atomic<int64_t> done{0};
    std::atomic<bool> all_others_ran{false};
    pool.parallel(kTasks, [&](int64_t i) {
      if (i != held_up) {
        ++done;
        return;
      }
      const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
      while (done < kTasks - 1 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
      all_others_ran = done == kTasks - 1;
    });
    EXPECT_TRUE(all_others_ran) << done << " of " << kTasks - 1 << " other tasks ran, task " << held_up
                                << " waits";
  }
}

}  // namespace
}  // namespace chorale
