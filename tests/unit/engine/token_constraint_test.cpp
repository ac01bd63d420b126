#include "engine/token_constraint.h"

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "engine/engine.h"
#include "unit/engine/fake_runner.h"
#include "unit/engine/recorder.h"

namespace chorale::engine {
namespace {

constexpr int64_t kVocab = 50;
constexpr int32_t kEnd = 49;

// Allows tokens that leave `remainder` when divided by 7, and after `length` of them only the end.
class EverySeventh : public TokenConstraint {
 public:
  EverySeventh(int32_t remainder, int64_t length, int64_t fails_after)
      : remainder_(remainder), length_(length), fails_after_(fails_after) {}

  std::optional<RequestError> next_mask(std::span<uint32_t> mask) override {
    if (count_ == fails_after_)
      return RequestError{
          .kind = RequestError::Kind::failed, .message = "the grammar is too hard", .param = "regex"};
    for (uint32_t& word : mask) word = 0;
    for (int32_t t = 0; t < kVocab; ++t) {
      const bool allowed = count_ < length_ ? t % 7 == remainder_ && t != kEnd : t == kEnd;
      if (allowed) mask[static_cast<size_t>(t / 32)] |= uint32_t{1} << (t % 32);
    }
    return std::nullopt;
  }
  std::optional<RequestError> accept(int32_t token) override {
    EXPECT_EQ(token % 7, remainder_);
    ++count_;
    return std::nullopt;
  }

 private:
  int32_t remainder_;
  int64_t length_, fails_after_;
  int64_t count_ = 0;
};

class TokenConstraintTest : public ::testing::Test {
 protected:
  TokenConstraintTest() {
    EngineOptions options;
    options.max_total_tokens = 9 * kBlockTokens;  // so little that sequences are preempted
    options.chunked_prefill_size = 64;
    options.max_running_requests = 8;
    options.max_context_len = 400;
    options.eos_token_ids = {kEnd};
    runner_ = std::make_unique<FakeRunner>(kVocab, options.max_total_tokens / kBlockTokens);
    engine_ = std::make_unique<Engine>(*runner_, options);
  }

  static GenerationRequest request(const std::string& id, int32_t remainder, int64_t length,
                                   int64_t fails_after = -1) {
    GenerationRequest r;
    r.id = id;
    r.prompt_ids = {3, 1, 4, remainder};
    r.sampling.max_new_tokens = 250;
    r.sampling.seed = 5;
    r.constraint = [=] { return std::make_unique<EverySeventh>(remainder, length, fails_after); };
    return r;
  }

  Recorder recorder_;
  std::unique_ptr<FakeRunner> runner_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(TokenConstraintTest, EveryTokenIsOneThatIsAllowed) {
  for (int32_t i = 0; i < 24; ++i) {
    const GenerationRequest r = request(std::to_string(i), i % 7, 20 + 8 * i);
    ASSERT_FALSE(engine_->submit(r, recorder_.listener(r.id)));
  }
  for (int32_t i = 0; i < 24; ++i) {
    const Record record = recorder_.wait(std::to_string(i));
    EXPECT_EQ(record.answer.finish, FinishReason::stop);
    ASSERT_EQ(std::ssize(record.answer.tokens), 20 + 8 * i + 1);
    for (int64_t t = 0; t < 20 + 8 * i; ++t)
      EXPECT_EQ(record.answer.tokens[static_cast<size_t>(t)] % 7, i % 7);
    EXPECT_EQ(record.answer.tokens.back(), kEnd);
  }
  EXPECT_GT(engine_->stats().preemptions, 0U);
}

TEST_F(TokenConstraintTest, TheBatchDoesNotChangeTheOutput) {
  std::vector<std::vector<int32_t>> alone;
  for (int32_t i = 0; i < 7; ++i) {
    const GenerationRequest r = request("alone" + std::to_string(i), i, 15);
    ASSERT_FALSE(engine_->submit(r, recorder_.listener(r.id)));
    alone.push_back(recorder_.wait(r.id).answer.tokens);
  }
  for (int32_t i = 0; i < 7; ++i) {
    const GenerationRequest r = request(std::to_string(i), i, 15);
    ASSERT_FALSE(engine_->submit(r, recorder_.listener(r.id)));
  }
  for (int32_t i = 0; i < 7; ++i)
    EXPECT_EQ(recorder_.wait(std::to_string(i)).answer.tokens, alone[static_cast<size_t>(i)]);
}

TEST_F(TokenConstraintTest, ItsEndEndsTheRequestEvenWhenTheEndIsToBeIgnored) {
  GenerationRequest r = request("a", 2, 5);
  r.sampling.ignore_eos = true;
  ASSERT_FALSE(engine_->submit(r, recorder_.listener(r.id)));
  const Record record = recorder_.wait(r.id);
  EXPECT_EQ(record.answer.finish, FinishReason::stop);
  EXPECT_EQ(record.answer.tokens.size(), 6U);
}

TEST_F(TokenConstraintTest, AnErrorOfItsOwnEndsTheRequestAlone) {
  const GenerationRequest bad = request("bad", 1, 30, 10);
  const GenerationRequest good = request("good", 3, 30);
  ASSERT_FALSE(engine_->submit(bad, recorder_.listener(bad.id)));
  ASSERT_FALSE(engine_->submit(good, recorder_.listener(good.id)));
  const Record failed = recorder_.wait("bad");
  EXPECT_EQ(failed.answer.finish, FinishReason::error);
  ASSERT_TRUE(failed.error);
  EXPECT_EQ(failed.error->param, "regex");
  EXPECT_EQ(failed.answer.tokens.size(), 10U);
  EXPECT_EQ(recorder_.wait("good").answer.finish, FinishReason::stop);
  EXPECT_TRUE(engine_->wait_idle(60));
  EXPECT_EQ(engine_->stats().kv_tokens_used, 0);
}

TEST_F(TokenConstraintTest, TheEndOfTheTextWinsOverTheLeastLength) {
  GenerationRequest r = request("a", 2, 5);
  r.sampling.min_new_tokens = 30;
  ASSERT_FALSE(engine_->submit(r, recorder_.listener(r.id)));
  const Record record = recorder_.wait(r.id);
  EXPECT_EQ(record.answer.finish, FinishReason::stop);
  EXPECT_EQ(record.answer.tokens.size(), 6U);
}

// Counts its masks, and where they are made.
class Counted : public TokenConstraint {
 public:
  struct Counts {
    std::atomic<int> masks{0};
    std::atomic<int> accepted{0};
    std::atomic<int> made_here{0};
    std::thread::id here = std::this_thread::get_id();
  };
  explicit Counted(Counts& counts) : counts_(counts) {}

  std::optional<RequestError> next_mask(std::span<uint32_t> mask) override {
    mask[0] = static_cast<uint32_t>(++number_);
    ++counts_.masks;
    if (std::this_thread::get_id() == counts_.here) ++counts_.made_here;
    return std::nullopt;
  }
  std::optional<RequestError> accept(int32_t /*token*/) override {
    ++counts_.accepted;
    return std::nullopt;
  }

 private:
  Counts& counts_;
  int number_ = 0;
};

TEST(MaskWorkers, EachMaskIsMadeOnceBySomeone) {
  constexpr int kTasks = 16;
  constexpr int kSteps = 200;
  for (const int num_threads : {0, 1, 3}) {
    Counted::Counts counts;
    std::vector<std::shared_ptr<MaskTask>> tasks;
    for (int i = 0; i < kTasks; ++i) {
      tasks.push_back(std::make_shared<MaskTask>(std::make_unique<Counted>(counts), 32));
    }
    MaskWorkers workers(num_threads);
    for (int step = 1; step <= kSteps; ++step) {
      for (const auto& task : tasks) {
        workers.start(task, step == 1 ? std::nullopt : std::optional<int32_t>(step));
      }
      if (step % 2 == 0) workers.help(std::chrono::hours(1));
      for (const auto& task : tasks) {
        workers.wait(*task);
        ASSERT_EQ(task->mask()[0], static_cast<uint32_t>(step));
      }
    }
    EXPECT_EQ(counts.masks, kTasks * kSteps);
    EXPECT_EQ(counts.accepted, kTasks * (kSteps - 1));
    if (num_threads == 0) {
      EXPECT_EQ(counts.made_here, counts.masks);
    }
  }
}

TEST(MaskWorkers, HelpMakesWhatNobodyHasBegunWhileThereIsTime) {
  Counted::Counts counts;
  const auto task = std::make_shared<MaskTask>(std::make_unique<Counted>(counts), 32);
  MaskWorkers workers(0);
  workers.start(task, std::nullopt);
  EXPECT_EQ(counts.masks, 0);
  workers.help(std::chrono::nanoseconds(0));
  EXPECT_EQ(counts.masks, 0);
  workers.help(std::chrono::hours(1));
  EXPECT_EQ(counts.masks, 1);
  workers.wait(*task);
  EXPECT_EQ(counts.masks, 1);
}

}  // namespace
}  // namespace chorale::engine
