// What ranks are told when one of them fails.
#include <atomic>
#include <chrono>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/local/local_world.h"
#include "unit/comm/rank_threads.h"

namespace chorale::comm {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

using Errors = std::vector<std::optional<CollectiveError>>;

void expect_told(const Errors& errors, int rank, int failed, const std::string& text) {
  const auto& error = errors[static_cast<size_t>(rank)];
  ASSERT_TRUE(error) << "rank " << rank << " was told nothing";
  EXPECT_EQ(error->rank, failed) << "rank " << rank;
  EXPECT_EQ(std::string(error->what()), text) << "rank " << rank;
}

TEST(LocalFailure, RankThatThrowsIsNamedToAll) {
  LocalWorld world(4);
  const Errors errors = run_ranks(world, [](Transport& t) {
    for (int step = 0;; ++step) {
      if (step == 10 && t.rank() == 2) throw std::runtime_error("out of memory");
      int64_t sums[3] = {1, 2, 3};
      t.all_reduce_sum(sums);
    }
  });
  for (const int rank : {0, 1, 3}) expect_told(errors, rank, 2, "rank 2 failed: out of memory");
  EXPECT_EQ(world.failure()->rank, 2);
}

TEST(LocalFailure, ReachesEveryGroupOfTheWorld) {
  LocalWorld world(6);
  const Errors errors = run_ranks(world, [](Transport& t) {
    const auto pair = t.split(t.rank() / 2, t.rank());
    const auto alone = pair->split(pair->rank(), 0);
    t.barrier();
    if (t.rank() == 5) throw std::runtime_error("no more");
    for (;;) t.rank() == 0 ? alone->barrier() : pair->barrier();  // rank 5 is in none but one of these
  });
  for (int rank = 0; rank < 5; ++rank) expect_told(errors, rank, 5, "rank 5 failed: no more");
}

TEST(LocalFailure, FailFromOutsideEndsEveryOperation) {
  using Operation = void (*)(Transport&);
  const std::vector<Operation> operations{
      [](Transport& t) { t.barrier(); },
      [](Transport& t) {
        std::byte b{};
        t.broadcast({&b, 1}, 0);
      },
      [](Transport& t) {
        std::byte b{};
        t.await_broadcast({&b, 1}, 2);
      },
      [](Transport& t) {
        int64_t v = 0;
        t.all_reduce_sum({&v, 1});
      },
      [](Transport& t) {
        const std::vector<int64_t> values(3), counts(3, 1);
        int64_t part = 0;
        t.reduce_scatter_sum(values, counts, {&part, 1});
      },
      [](Transport& t) {
        std::vector<std::byte> all(3);
        t.all_gather({all.data(), 1}, std::vector<int64_t>(3, 1), all);
      },
      [](Transport& t) { t.gather({}, std::vector<int64_t>(3, 0), {}, 1); },
      [](Transport& t) {
        std::vector<int64_t> none(3), received(3);
        t.all_to_all({}, none, {}, received);
      },
      [](Transport& t) { t.split(0, 0); },
  };
  for (const Operation operation : operations) {
    LocalWorld world(3, milliseconds(0));
    std::thread outside([&] {
      std::this_thread::sleep_for(milliseconds(20));
      world.fail(2, "asked to");
      world.fail(0, "a later failure, which is not kept");
    });
    const Errors errors = run_ranks(world, [&](Transport& t) {
      if (t.rank() != 2) operation(t);
    });
    outside.join();
    expect_told(errors, 0, 2, "rank 2 failed: asked to");
    expect_told(errors, 1, 2, "rank 2 failed: asked to");
  }
}

TEST(LocalFailure, WhoComesLaterIsTold) {
  LocalWorld world(3);
  std::shared_ptr<Transport> part;
  run_ranks(world, [&](Transport& t) {
    const auto all = t.split(0, 0);
    if (t.rank() == 1) part = all;
  });
  world.fail(-1, "the device is gone");
  const Errors errors =
      run_ranks(world, [&](Transport& t) { t.rank() == 1 ? part->barrier() : t.barrier(); });
  for (int rank = 0; rank < 3; ++rank) expect_told(errors, rank, -1, "a rank failed: the device is gone");
}

TEST(LocalFailure, RankThatDoesNotComeIsNamed) {
  LocalWorld world(4, milliseconds(300));
  const auto start = std::chrono::steady_clock::now();
  const Errors errors = run_ranks(world, [](Transport& t) {
    t.barrier();
    if (t.rank() == 1) std::this_thread::sleep_for(milliseconds(900));
    int64_t sum = 1;
    t.all_reduce_sum({&sum, 1});
  });
  EXPECT_GE(std::chrono::steady_clock::now() - start, milliseconds(300));
  for (int rank = 0; rank < 4; ++rank)  // the late one, too
    expect_told(errors, rank, 1, "rank 1 failed: it did not come to a collective operation within 0.3 s");
}

// Rank 0 waits for rank 1, which waits for rank 2 in another group: rank 0's time is over first, and yet it
// is not rank 1 that is to blame.
TEST(LocalFailure, WhoWaitsForOthersIsNotToBlame) {
  LocalWorld world(3, milliseconds(500));
  const Errors errors = run_ranks(world, [](Transport& t) {
    const auto low = t.split(t.rank() < 2 ? 0 : 1, t.rank());
    const auto high = t.split(t.rank() > 0 ? 0 : 1, t.rank());
    if (t.rank() == 0) low->barrier();
    std::this_thread::sleep_for(milliseconds(t.rank() == 1 ? 100 : 1200));
    high->barrier();
    low->barrier();
  });
  for (int rank = 0; rank < 3; ++rank)
    expect_told(errors, rank, 2, "rank 2 failed: it did not come to a collective operation within 0.5 s");
}

// Of two members that have not come, rank 1 waits for rank 4, which waits for rank 3, the other. Rank 2 works
// for itself.
TEST(LocalFailure, WhoWaitsForNobodyIsNotToBlameEither) {
  LocalWorld world(5, milliseconds(500));
  const Errors errors = run_ranks(world, [](Transport& t) {
    const int me = t.rank();
    const auto first = t.split(me == 0 || me == 1 || me == 3 ? 0 : 1, me);
    const auto second = t.split(me == 1 || me == 4 ? 0 : 1, me);
    const auto third = t.split(me == 3 || me == 4 ? 0 : 1, me);
    if (me == 0) first->barrier();
    std::this_thread::sleep_for(milliseconds(me == 1 || me == 4 ? 100 : 1200));
    if (me == 1) second->barrier();
    third->barrier();
  });
  for (const int rank : {0, 1, 3, 4})
    expect_told(errors, rank, 3, "rank 3 failed: it did not come to a collective operation within 0.5 s");
}

TEST(LocalFailure, NoLimitWaitsForEver) {
  LocalWorld world(2, milliseconds(0));
  const Errors errors = run_ranks(world, [](Transport& t) {
    if (t.rank() == 0) std::this_thread::sleep_for(milliseconds(150));
    t.barrier();
  });
  EXPECT_FALSE(errors[0] || errors[1]);
}

TEST(LocalFailure, AwaitedBroadcastOutlastsTheLimit) {
  LocalWorld world(3, milliseconds(50));
  const Errors errors = run_ranks(world, [](Transport& t) {
    int64_t step = 0;
    if (t.rank() == 0) {
      std::this_thread::sleep_for(milliseconds(250));
      step = 7;
    }
    t.await_broadcast(std::as_writable_bytes(std::span(&step, 1)), 0);
    EXPECT_EQ(step, 7);
  });
  for (const auto& error : errors) EXPECT_FALSE(error) << error->what();
}

// A rank that is told of a failure frees its buffers; nobody may read them after that. The sanitizers look.
TEST(LocalFailure, BuffersAreNotReadAfterTheError) {
  for (int round = 0; round < 200; ++round) {
    LocalWorld world(4);
    std::thread outside([&, round] {
      std::this_thread::sleep_for(std::chrono::microseconds(round * 7 % 400));
      world.fail(round % 4, "now");
    });
    const Errors errors = run_ranks(world, [](Transport& t) {
      for (;;) {
        std::vector<int64_t> values(300, 1);
        t.all_reduce_sum(values);
        for (const int64_t v : values) ASSERT_EQ(v, 4);
        t.split(t.rank() % 2, 0)->all_reduce_sum(values);
        for (const int64_t v : values) ASSERT_EQ(v, 8);
      }
    });
    outside.join();
    for (const auto& error : errors) ASSERT_TRUE(error);
  }
}

TEST(LocalFailure, TransportsOutliveTheWorld) {
  std::shared_ptr<Transport> rank;
  {
    const LocalWorld world(2);
    rank = world.transport(1);
  }
  EXPECT_EQ(rank->rank(), 1);
  EXPECT_EQ(rank->size(), 2);
}

}  // namespace
}  // namespace chorale::comm
