#include "server/generation/answer_budget.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace chorale::server {
namespace {

TEST(AnswerBudget, GivesWhatThereIsAndNoMore) {
  AnswerBudget budget(100);
  AnswerBudget::Share one(budget);
  EXPECT_TRUE(one.grow(60));
  {
    AnswerBudget::Share other(budget);
    EXPECT_TRUE(other.grow(40));
    EXPECT_FALSE(other.grow(1));
    EXPECT_EQ(budget.taken(), 100U) << "what was refused is not taken";
    EXPECT_TRUE(other.grow(0));
  }
  EXPECT_EQ(budget.taken(), 60U) << "an answer that is over gives back all that it had";
  EXPECT_FALSE(one.grow(41));
  EXPECT_TRUE(one.grow(40));
}

TEST(AnswerBudget, IsNeverExceededByAnswersThatGrowAtOnce) {
  constexpr int kThreads = 4, kShares = 200;
  AnswerBudget budget(10);
  std::atomic<int> beyond{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < kShares; ++n) {
        std::vector<std::unique_ptr<AnswerBudget::Share>> shares;
        uint64_t mine = 0;
        for (int s = 0; s < 12; ++s) {
          shares.push_back(std::make_unique<AnswerBudget::Share>(budget));
          if (shares.back()->grow(1)) ++mine;
        }
        if (mine > budget.most()) ++beyond;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(beyond, 0);
  EXPECT_EQ(budget.taken(), 0U);
}

}  // namespace
}  // namespace chorale::server
