#include "tools/eval.h"

#include <cmath>
#include <limits>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "unit/tools/sine_runner.h"

namespace chorale::tools {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

std::vector<int32_t> some_ids(size_t count, int32_t vocab) {
  std::vector<int32_t> ids(count);
  for (size_t i = 0; i < count; ++i)
    ids[i] = static_cast<int32_t>((i * 7 + i / 3) % static_cast<size_t>(vocab));
  return ids;
}

// The definition, written out: windows of `window`, the first token of each not predicted.
double expected_nll(const std::vector<int32_t>& ids, size_t window, size_t max_tokens, int64_t vocab) {
  double sum = 0;
  int64_t count = 0;
  for (size_t i = 0; i < max_tokens; ++i) {
    if (i % window == 0) continue;
    double normaliser = 0;
    const auto position = static_cast<int64_t>((i - 1) % window);
    for (int64_t v = 0; v < vocab; ++v)
      normaliser += std::exp(double{SineRunner::logit(ids[i - 1], position, v)});
    sum += std::log(normaliser) - double{SineRunner::logit(ids[i - 1], position, ids[i])};
    ++count;
  }
  return sum / static_cast<double>(count);
}

TEST(NegativeLogLikelihood, UniformLogitsGiveTheLogarithmOfTheirNumber) {
  const std::vector<float> logits(50, 3.5F);
  EXPECT_NEAR(negative_log_likelihood(logits, 7), std::log(50.0), 1e-14);
}

TEST(NegativeLogLikelihood, HugeLogitsDoNotOverflow) {
  EXPECT_NEAR(negative_log_likelihood(std::vector<float>{3e38F, 0}, 0), 0, 1e-12);
  EXPECT_NEAR(negative_log_likelihood(std::vector<float>{1000, 1000}, 1), std::log(2.0), 1e-12);
  EXPECT_NEAR(negative_log_likelihood(std::vector<float>{-1000, -1001}, 1), 1 + std::log1p(std::exp(-1.0)),
              1e-12);
}

TEST(NegativeLogLikelihood, NanStaysVisible) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(negative_log_likelihood(std::vector<float>{nan, 1}, 1)));
  EXPECT_TRUE(std::isnan(negative_log_likelihood(std::vector<float>{1, nan}, 0)));
}

TEST(Evaluate, MatchesTheDefinition) {
  const std::vector<int32_t> ids = some_ids(100, 20);
  SineRunner runner(20);
  const EvalResult result = evaluate(runner, ids, {.window = 25, .chunk_size = 10});
  EXPECT_EQ(result.windows, 4);
  EXPECT_EQ(result.tokens, 4 * 24);
  EXPECT_EQ(runner.num_sequences, 4);
  EXPECT_NEAR(result.nll, expected_nll(ids, 25, 100, 20), 1e-6);
  EXPECT_DOUBLE_EQ(result.perplexity, std::exp(result.nll));
}

TEST(Evaluate, ChunksDoNotMatter) {
  const std::vector<int32_t> ids = some_ids(90, 20);
  SineRunner first(20);
  const EvalResult whole = evaluate(first, ids, {.window = 40, .chunk_size = 512});
  for (const int64_t chunk : {1, 3, 39, 40}) {
    SineRunner runner(20);
    EXPECT_EQ(evaluate(runner, ids, {.window = 40, .chunk_size = chunk}).nll, whole.nll);
  }
}

TEST(Evaluate, TakesTheFirstWindowsAndTheShortLastOne) {
  const std::vector<int32_t> ids = some_ids(27, 20);
  SineRunner runner(20);
  EvalResult result = evaluate(runner, ids, {.window = 10});
  EXPECT_EQ(result.windows, 3);
  EXPECT_EQ(result.tokens, 9 + 9 + 6);
  EXPECT_NEAR(result.nll, expected_nll(ids, 10, 27, 20), 1e-6);

  result = evaluate(runner, ids, {.window = 10, .max_windows = 2});
  EXPECT_EQ(result.windows, 2);
  EXPECT_EQ(result.tokens, 18);
  EXPECT_NEAR(result.nll, expected_nll(ids, 10, 20, 20), 1e-6);
}

TEST(Evaluate, LeavesOutALastWindowOfOneToken) {
  SineRunner runner(20);
  const EvalResult result = evaluate(runner, some_ids(21, 20), {.window = 10});
  EXPECT_EQ(result.windows, 2);
  EXPECT_EQ(result.tokens, 18);
}

TEST(Evaluate, ReportsEachWindow) {
  SineRunner runner(20);
  std::vector<std::pair<int64_t, int64_t>> calls;
  EvalOptions options{.window = 10, .max_windows = 3};
  options.on_window = [&](int64_t done, int64_t total) { calls.emplace_back(done, total); };
  evaluate(runner, some_ids(100, 20), options);
  EXPECT_THAT(calls, ElementsAre(Pair(1, 3), Pair(2, 3), Pair(3, 3)));
}

TEST(Evaluate, RefusesTooShortTextsAndNan) {
  SineRunner runner(20);
  EXPECT_THROW(evaluate(runner, some_ids(1, 20), {}), Error);
  EXPECT_THROW(evaluate(runner, {}, {}), Error);
  runner.scale = std::numeric_limits<float>::quiet_NaN();
  try {
    evaluate(runner, some_ids(5, 20), {});
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("NaN"));
  }
}

}  // namespace
}  // namespace chorale::tools
