// What waiting costs: no processor time, no allocations, and not much time where ranks outnumber cores.
#include <atomic>
#include <chrono>
#include <ctime>
#include <thread>

#include <gtest/gtest.h>

#include "comm/local/local_world.h"
#include "unit/allocation_counter.h"
#include "unit/comm/rank_threads.h"

namespace chorale::comm {
namespace {

using std::chrono::milliseconds;

double seconds_of(clockid_t clock) {
  timespec t = {};
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

TEST(LocalWaiting, TakesNoCpu) {
  constexpr auto kTime = milliseconds(500);
  for (const int ranks : {2, 8}) {  // those that may spin first, and those that may not
    LocalWorld world(ranks);
    run_ranks(world, [&](Transport& t) {
      int64_t sum = 1;
      for (int i = 0; i < 2; ++i) {
        t.barrier();
        if (t.rank() == 0) std::this_thread::sleep_for(kTime);
        const double before = seconds_of(CLOCK_THREAD_CPUTIME_ID);
        i == 0 ? t.all_reduce_sum({&sum, 1})
               : t.await_broadcast(std::as_writable_bytes(std::span(&sum, 1)), 0);
        EXPECT_LT(seconds_of(CLOCK_THREAD_CPUTIME_ID) - before, 0.02 * 0.5)
            << "rank " << t.rank() << " of " << ranks;
      }
    });
  }
}

// Processor time, which other programs on the machine do not change: a rank that spun through its time slice
// would take milliseconds for each barrier.
TEST(LocalWaiting, ManyRanksOnFewCoresMakeProgress) {
  constexpr int kRounds = 2000;
  LocalWorld world(8);
  const double before = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
  run_ranks(world, [](Transport& t) {
    for (int round = 0; round < kRounds; ++round) t.barrier();
  });
  EXPECT_LT((seconds_of(CLOCK_PROCESS_CPUTIME_ID) - before) / kRounds, 2e-3);  // some microseconds are usual
}

TEST(LocalWaiting, OperationsAllocateNothing) {
  LocalWorld world(4);
  std::atomic<int64_t> before = 0, after = 0;
  run_ranks(world, [&](Transport& t) {
    const auto part = t.split(t.rank() % 2, t.rank());
    std::vector<int64_t> values(100, 1), sums(25), received_sizes(4);
    const std::vector<int64_t> counts(4, 25), sizes(4, 80);
    std::vector<std::byte> mine(320), all(320);
    const std::span<const std::byte> own(mine.data(), 80);
    t.barrier();
    if (t.rank() == 0) before = num_allocations.load();
    for (int round = 0; round < 50; ++round) {
      part->all_reduce_sum(values);
      t.reduce_scatter_sum(values, counts, sums);
      t.all_gather(own, sizes, all);
      t.gather(own, sizes, t.rank() == 1 ? all : std::span<std::byte>(), 1);
      t.all_to_all(mine, sizes, all, received_sizes);
      t.broadcast(all, 3);
      t.barrier();
    }
    if (t.rank() == 0) after = num_allocations.load();
    t.barrier();
  });
  EXPECT_GT(before, 0) << "allocations are counted";
  EXPECT_EQ(after, before);
}

}  // namespace
}  // namespace chorale::comm
