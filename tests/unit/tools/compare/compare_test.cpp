// Comparisons of the bundled model, and what counts as a difference.
#include "tools/compare/compare.h"

#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/log.h"
#include "source_dir.h"

namespace chorale::tools {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Le;
using ::testing::SizeIs;

TEST(Difference, IsOfBits) {
  const Answer answer{
      {5, 6}, {{-1.5F, {{5, -1.5F}}}, {-0.0F, {{6, -0.0F}, {7, -9.0F}}}}, engine::FinishReason::length};
  const auto difference = [&](const auto& change) {
    Answer other = answer;
    change(other);
    const std::vector<Answer> expected = {answer, answer};
    const std::vector<Answer> actual = {answer, other};
    return find_difference(std::span<const Answer>(expected), std::span<const Answer>(actual))
        .value_or("none");
  };
  EXPECT_EQ(difference([](Answer&) {}), "none");
  EXPECT_EQ(difference([](Answer& a) { a.tokens[1] = 7; }), "request 2: token 2 is 7 instead of 6");
  const char* kAlternatives =
      "request 2: the most likely alternatives to token 2 or their log probabilities differ";
  EXPECT_EQ(difference([](Answer& a) { a.logprobs[1].logprob = 0.0F; }),
            "request 2: the log probability of token 2 is 0 instead of -0");
  EXPECT_EQ(difference([](Answer& a) { a.logprobs[1].top[1].second = -9.000001F; }), kAlternatives);
  EXPECT_EQ(difference([](Answer& a) { a.logprobs[1].top[1].first = 8; }), kAlternatives);
  EXPECT_EQ(difference([](Answer& a) { a.logprobs[1].top.pop_back(); }), kAlternatives);
  EXPECT_EQ(difference([](Answer& a) { a.tokens.pop_back(); }), "request 2: 1 tokens instead of 2");
  EXPECT_EQ(difference([](Answer& a) { a.finish = engine::FinishReason::stop; }),
            "request 2: it ended for another reason");
}

TEST(Difference, NanIsItself) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<Answer> answers = {{{5}, {{nan, {}}}, engine::FinishReason::length}};
  EXPECT_FALSE(
      find_difference(std::span<const Answer>(answers), std::span<const Answer>(answers)).has_value());
}

TEST(Times, ComeFromTheRequests) {
  const auto request = [](double submitted, std::vector<double> times) {
    ServedRequest served;
    served.submitted = submitted;
    served.token_times = std::move(times);
    return served;
  };
  const std::vector<ServedRequest> served = {request(1, {2, 2.5, 3}), request(1.5, {3.5, 5})};
  Measurement m;
  m.prompt_tokens = 50;
  measure_times(served, m);
  EXPECT_DOUBLE_EQ(m.first_token->mean, 1.5);  // 1 and 2
  EXPECT_DOUBLE_EQ(m.between->mean, (0.5 + 0.5 + 1.5) / 3);
  EXPECT_DOUBLE_EQ(m.between->median, 0.5);
  EXPECT_DOUBLE_EQ(m.seconds, 4);
  EXPECT_DOUBLE_EQ(m.prompt_rate, 50 / 2.5);  // the last first token comes at 3.5
  EXPECT_DOUBLE_EQ(m.output_rate, 5 / 4.0);
  EXPECT_EQ(m.output_tokens, 5);
  EXPECT_EQ(m.computed_tokens, 53);  // the last token of each sequence is not computed
}

TEST(Times, OfOneTokenEachHaveNoLatencyBetween) {
  ServedRequest served;
  served.token_times = {1};
  Measurement m;
  measure_times({&served, 1}, m);
  EXPECT_FALSE(m.between.has_value());
  EXPECT_TRUE(m.first_token.has_value());
}

class Compare : public ::testing::Test {
 protected:
  Compare() {
    options_.load.model_path = source_dir() / "models/tales-moe";
    options_.load.threads = 1;
    log::set_level(log::Level::warn);
  }
  std::vector<Outcome> run(std::vector<const char*> texts) {
    std::vector<NamedStrategy> strategies;
    for (const char* text : texts) strategies.push_back(strategy_from_text(text));
    return compare(options_, strategies, make_random({4, 10, 5}, 4096, 2048, 0));
  }
  CompareOptions options_;
};

TEST_F(Compare, MeasuresWhatWasAsked) {
  const std::vector<Outcome> outcomes = run({"tp=1", "tp=2,dp=2,ep=4"});
  ASSERT_THAT(outcomes, SizeIs(2));
  EXPECT_TRUE(outcomes[0].is_reference);
  EXPECT_FALSE(outcomes[1].is_reference);
  EXPECT_TRUE(any_ran(outcomes));
  EXPECT_TRUE(all_identical(outcomes)) << outcomes[1].difference.value_or("");

  const Measurement& one = outcomes[0].measured.value();
  EXPECT_EQ(one.prompt_tokens, 40);
  EXPECT_EQ(one.output_tokens, 20);
  EXPECT_EQ(one.computed_tokens, 40 + 20 - 4);
  // A request takes 5 steps: one for its prompt and the first token, 4 for the others. All run together when
  // the engine's thread sees all at once, and one after the other when this thread is kept from handing them
  // in.
  EXPECT_THAT(one.steps, AllOf(Ge(5U), Le(4 * 5U)));
  EXPECT_THAT(one.ranks, SizeIs(1));
  EXPECT_EQ(one.ranks[0].weights, one.stored_weights);
  for (const comm::Purpose purpose :
       {comm::Purpose::attention, comm::Purpose::dispatch, comm::Purpose::combine})
    EXPECT_EQ(one.bytes_for(purpose), 0U);
  EXPECT_DOUBLE_EQ(one.balance.value().worst, 1);

  const Measurement& four = outcomes[1].measured.value();
  EXPECT_THAT(four.ranks, SizeIs(4));
  EXPECT_LT(four.ranks[0].weights, one.stored_weights / 2);
  EXPECT_EQ(four.stored_weights, one.stored_weights);
  EXPECT_GT(four.bytes_for(comm::Purpose::attention), 0U);
  EXPECT_GT(four.bytes_for(comm::Purpose::dispatch), 0U);
  EXPECT_GT(four.bytes_for(comm::Purpose::combine), four.bytes_for(comm::Purpose::dispatch));
  EXPECT_GE(four.balance.value().worst, four.balance->mean);
  EXPECT_GE(four.balance->mean, 1);
}

TEST_F(Compare, AStrategyThatFailsIsARow) {
  options_.load.parallel.fault = engine::InjectedFault{.rank = 1, .step = 4};
  const std::vector<Outcome> outcomes = run({"nonsense", "tp=3", "tp=2", "tp=1"});
  ASSERT_THAT(outcomes, SizeIs(4));
  EXPECT_THAT(outcomes[0].error, HasSubstr("\"nonsense\" is not a size"));
  EXPECT_THAT(outcomes[1].error, HasSubstr("--tp-size"));
  EXPECT_THAT(outcomes[2].error, HasSubstr("rank 1 failed"));
  EXPECT_FALSE(outcomes[2].measured.has_value());
  EXPECT_EQ(outcomes[3].error, "");
  EXPECT_TRUE(outcomes[3].is_reference);  // the first that ran
  EXPECT_TRUE(any_ran(outcomes));
  EXPECT_FALSE(any_ran(std::span(outcomes).first(3)));
}

TEST_F(Compare, RanksAreThreadsWhateverTheCommunicator) {
  options_.load.parallel.communicator = "mpi";
  std::vector<size_t> started;
  options_.on_start = [&](size_t index, const NamedStrategy&) { started.push_back(index); };
  EXPECT_TRUE(all_identical(run({"dp=2", "bad", "dp=2"})));
  EXPECT_THAT(started, ElementsAre(0U, 2U));  // what cannot be parsed is not loaded
}

}  // namespace
}  // namespace chorale::tools
