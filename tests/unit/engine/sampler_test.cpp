#include "unit/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "base/random.h"
#include "unit/random_cases.h"

namespace chorale::engine {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Case {
  std::vector<float> logits;
  SamplingParams params;
  uint64_t seed = 0;
  std::vector<int32_t> prompt{0};
  std::vector<int32_t> output;
  std::vector<int32_t> eos;
  std::vector<uint32_t> allowed;

  Sampled sample(Sampler& sampler) const {
    return sampler.sample({logits, params, seed, prompt, output, eos, allowed});
  }
  Sampled sample() const {
    Sampler sampler(static_cast<int64_t>(logits.size()));
    return sample(sampler);
  }
};

std::vector<float> random_logits(std::mt19937& random, size_t vocab, float spread) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(vocab);
  for (float& x : logits) x = normal(random);
  return logits;
}

Case greedy(std::vector<float> logits) {
  Case c;
  c.logits = std::move(logits);
  c.params.temperature = 0;
  return c;
}

// ---- greedy, ties, unusable rows ----

TEST(Sampler, GreedyTakesTheLargestLogitAndTheLowestIdOfEquals) {
  EXPECT_EQ(greedy({1, 3, 2}).sample().token, 1);
  EXPECT_EQ(greedy({1, 3, 3, 3}).sample().token, 1);
  EXPECT_EQ(greedy({-5, -kInf, -4}).sample().token, 2);
  std::mt19937 random(1);
  for (const size_t vocab : {size_t{1}, size_t{15}, size_t{16}, size_t{17}, size_t{1000}}) {
    const Case c = greedy(random_logits(random, vocab, 3));
    EXPECT_EQ(c.sample().token, std::max_element(c.logits.begin(), c.logits.end()) - c.logits.begin());
  }
}

TEST(Sampler, TopKOfOneIsGreedyAtAnyTemperature) {
  std::mt19937 random(2);
  for (int i = 0; i < 50; ++i) {
    Case c = greedy(random_logits(random, 200, 1));
    c.seed = random();
    const int32_t best = c.sample().token;
    c.params.temperature = 100;
    c.params.top_k = 1;
    EXPECT_EQ(c.sample().token, best);
  }
}

TEST(Sampler, UnusableLogitsAreReportedAndLeaveTheSamplerUsable) {
  for (const double temperature : {0.0, 1.0}) {
    for (const float bad : {kNan, kInf}) {
      for (const size_t where : {size_t{0}, size_t{20}, size_t{36}}) {
        Case c = greedy(std::vector<float>(37, 1.0f));
        c.params.temperature = temperature;
        c.params.repetition_penalty = 1.5;
        c.logits[where] = bad;
        Sampler sampler(37);
        EXPECT_EQ(c.sample(sampler).status, SampleStatus::bad_logits);
        EXPECT_FALSE(sampler.logprobs(c.logits, 0, 3).has_value());
        c.logits[where] = 9;
        c.params.temperature = 0;
        EXPECT_EQ(c.sample(sampler).token, static_cast<int32_t>(where));
      }
    }
    Case c = greedy(std::vector<float>(37, -kInf));
    c.params.temperature = temperature;
    EXPECT_EQ(c.sample().status, SampleStatus::bad_logits);
  }
}

TEST(Sampler, ExtremeParametersStayDefined) {
  Case c;
  c.logits = {1, 5, 2, -kInf};
  c.params.temperature = 5e-324;
  EXPECT_EQ(c.sample().token, 1);
  c.params.temperature = 1e308;
  EXPECT_EQ(c.sample().status, SampleStatus::ok);
  c.params.temperature = 1;
  c.params.repetition_penalty = 1e-300;
  c.prompt = {0, 1, 2, 3};
  EXPECT_EQ(c.sample().status, SampleStatus::ok);
  c.params.repetition_penalty = 1;
  c.logits = {3e38f, 0, -3e38f};
  c.params.logit_bias = {{0, 3e38f}, {2, -3e38f}};
  EXPECT_EQ(c.sample().token, 0);
}

// ---- adjustments ----

// The definition, one token at a time.
std::vector<double> adjusted_by_definition(const Case& c) {
  std::vector<double> logits(c.logits.begin(), c.logits.end());
  const SamplingParams& p = c.params;
  for (size_t i = 0; i < logits.size(); ++i) {
    const auto token = static_cast<int32_t>(i);
    for (const auto& [id, bias] : p.logit_bias) {
      if (id == token) logits[i] = static_cast<float>(logits[i] + double{bias});
    }
    const auto count = std::count(c.output.begin(), c.output.end(), token);
    const bool seen = count > 0 || std::count(c.prompt.begin(), c.prompt.end(), token) > 0;
    if (seen) logits[i] = logits[i] > 0 ? logits[i] / p.repetition_penalty : logits[i] * p.repetition_penalty;
    logits[i] -= p.frequency_penalty * static_cast<double>(count);
    if (count > 0) logits[i] -= p.presence_penalty;
    if (static_cast<int64_t>(c.output.size()) < p.min_new_tokens && is_stop_token(token, p, c.eos)) {
      logits[i] = -std::numeric_limits<double>::infinity();
    }
  }
  return logits;
}

TEST(Sampler, PenaltiesBiasAndMaskFollowTheirDefinition) {
  std::mt19937 random(3);
  auto uniform = [&](double low, double high) { return std::uniform_real_distribution<>(low, high)(random); };
  constexpr size_t kVocab = 40;
  Sampler sampler(kVocab);
  int changed = 0;
  for (int trial = 0; trial < random_cases(2000); ++trial) {
    Case c = greedy(random_logits(random, kVocab, 2));
    const int32_t plain = c.sample(sampler).token;
    auto tokens = [&](size_t count) {
      std::vector<int32_t> ids(count);
      for (int32_t& id : ids) id = static_cast<int32_t>(random() % kVocab);
      return ids;
    };
    c.prompt = tokens(1 + random() % 20);
    c.output = tokens(random() % 30);
    c.eos = tokens(2);
    if (random() % 2 != 0) c.params.repetition_penalty = uniform(0.5, 2);
    if (random() % 2 != 0) c.params.frequency_penalty = uniform(-1, 1);
    if (random() % 2 != 0) c.params.presence_penalty = uniform(-2, 2);
    for (const int32_t id : tokens(random() % 4)) c.params.logit_bias.emplace_back(id, uniform(-3, 3));
    c.params.stop_token_ids = tokens(random() % 4);
    c.params.ignore_eos = random() % 2 != 0;
    c.params.min_new_tokens = static_cast<int64_t>(random() % 30);
    const auto expected = adjusted_by_definition(c);
    const int32_t token = c.sample(sampler).token;
    EXPECT_EQ(token, std::max_element(expected.begin(), expected.end()) - expected.begin())
        << "trial " << trial;
    changed += token != plain ? 1 : 0;
  }
  EXPECT_GT(changed, kSanitized ? 40 : 500);
}

TEST(Sampler, RepetitionPenaltyDividesPositiveAndMultipliesNegative) {
  Case c = greedy({4.0f, 3.0f});
  c.params.repetition_penalty = 2;
  c.prompt = {0};
  EXPECT_EQ(c.sample().token, 1);
  c.logits = {-1.0f, -1.5f};
  EXPECT_EQ(c.sample().token, 1);
  c.params.repetition_penalty = 0.5;
  c.prompt = {1};
  EXPECT_EQ(c.sample().token, 1);
}

TEST(Sampler, FrequencyAndPresenceCountOutputAlone) {
  Case c = greedy({1.0f, 0.5f});
  c.params.presence_penalty = 1;
  c.prompt = {0, 0, 0};
  EXPECT_EQ(c.sample().token, 0);
  c.output = {0};
  EXPECT_EQ(c.sample().token, 1);
  c.params.presence_penalty = 0;
  c.params.frequency_penalty = 0.3;
  EXPECT_EQ(c.sample().token, 0);
  c.output = {0, 0};
  EXPECT_EQ(c.sample().token, 1);
}

TEST(Sampler, StopTokensAreMaskedUntilEnoughWereGenerated) {
  Case c = greedy({5, 4, 3});
  c.eos = {0};
  c.params.stop_token_ids = {1};
  c.params.min_new_tokens = 2;
  EXPECT_EQ(c.sample().token, 2);
  c.params.ignore_eos = true;  // then the end-of-sequence token stops nothing and may be said
  EXPECT_EQ(c.sample().token, 0);
  c.params.ignore_eos = false;
  c.output = {2, 2};
  EXPECT_EQ(c.sample().token, 0);
  c.output = {};
  c.params.stop_token_ids = {1, 2};
  EXPECT_EQ(c.sample().status, SampleStatus::all_masked);
}

TEST(Sampler, OnlyWhatIsAllowedIsLeft) {
  std::mt19937 random(21);
  for (const size_t vocab : {size_t{1}, size_t{31}, size_t{32}, size_t{33}, size_t{100}, size_t{500}}) {
    Sampler sampler(static_cast<int64_t>(vocab));
    int constrained = 0;
    for (int trial = 0; trial < random_cases(300); ++trial) {
      Case c = greedy(random_logits(random, vocab, 2));
      c.seed = random();
      c.params.temperature = trial % 3;
      c.params.top_k = trial % 5 == 0 ? 3 : -1;
      if (trial % 7 == 0) c.params.presence_penalty = 1;
      c.output = {static_cast<int32_t>(random() % vocab)};
      Case masked = c;  // the same by hand
      for (size_t word = 0; word * 32 < vocab; ++word) {
        const uint32_t bits = random() % 3 == 0 ? 0 : static_cast<uint32_t>(random() & random());
        c.allowed.push_back(trial % 11 == 0 ? ~uint32_t{0} : bits);
        for (size_t i = word * 32; i < std::min(vocab, word * 32 + 32); ++i) {
          if ((c.allowed[word] >> (i % 32) & 1U) == 0) masked.logits[i] = -kInf;
        }
      }
      const Sampled expected = masked.sample(sampler);
      const Sampled sampled = c.sample(sampler);
      EXPECT_EQ(sampled.token, expected.token) << "vocabulary " << vocab << ", trial " << trial;
      if (expected.status == SampleStatus::ok) {
        EXPECT_EQ(sampled.status, SampleStatus::ok);
        ++constrained;
      } else {
        EXPECT_EQ(sampled.status, SampleStatus::all_masked);
      }
    }
    EXPECT_GT(constrained, random_cases(20));
  }
}

TEST(Sampler, LogitsThatAreNotAllowedMustBeUsableAllTheSame) {
  Case c = greedy({1.0F, kNan, 2.0F});
  c.allowed = {0b101};
  EXPECT_EQ(c.sample().status, SampleStatus::bad_logits);
  c.logits[1] = -kInf;
  EXPECT_EQ(c.sample().token, 2);
  c.allowed = {0b010};
  EXPECT_EQ(c.sample().status, SampleStatus::all_masked);
}

// ---- sampling ----

// By definition: a full sort, probabilities in long double, each filter in turn.
int32_t sample_by_definition(const Case& c) {
  struct Entry {
    float logit;
    int32_t token;
    long double p;
  };
  std::vector<Entry> entries;
  const float max = *std::max_element(c.logits.begin(), c.logits.end());
  for (size_t i = 0; i < c.logits.size(); ++i) {
    const long double x = (static_cast<long double>(c.logits[i]) - max) / c.params.temperature;
    entries.push_back({c.logits[i], static_cast<int32_t>(i), std::exp(x)});
  }
  std::ranges::stable_sort(entries, [](const Entry& a, const Entry& b) { return a.logit > b.logit; });
  if (c.params.top_k > 0 && static_cast<size_t>(c.params.top_k) < entries.size()) {
    entries.resize(static_cast<size_t>(c.params.top_k));
  }
  auto sum = [&] {
    return std::accumulate(entries.begin(), entries.end(), 0.0L,
                           [](long double s, const Entry& e) { return s + e.p; });
  };
  if (c.params.top_p < 1) {
    const long double wanted = sum() * c.params.top_p;
    long double running = 0;
    size_t kept = 0;
    while (kept < entries.size() && running < wanted) running += entries[kept++].p;
    entries.resize(std::max<size_t>(kept, 1));
  }
  std::erase_if(entries, [&](const Entry& e) { return e.p < c.params.min_p; });
  const uint64_t bits = random_bits(c.seed, c.params.choice_index, c.prompt.size() + c.output.size());
  const long double target = static_cast<long double>(bits) / 0x1p64L * sum();
  long double running = 0;
  for (const Entry& e : entries) {
    running += e.p;
    if (running > target) return e.token;
  }
  return entries.back().token;
}

TEST(Sampler, TruncationAndInverseCdfAgreeWithTheirDefinition) {
  std::mt19937 random(4);
  auto uniform = [&](double low, double high) { return std::uniform_real_distribution<>(low, high)(random); };
  for (const size_t vocab : {size_t{2}, size_t{50}, size_t{3000}}) {
    Sampler sampler(static_cast<int64_t>(vocab));
    const int trials = vocab > 1000 ? 1000 : 4000;
    for (int trial = 0; trial < trials; ++trial) {
      Case c;
      c.logits = random_logits(random, vocab, static_cast<float>(uniform(0.1, 8)));
      if (random() % 4 == 0) {
        for (float& x : c.logits) x = std::round(x);  // many ties
      }
      if (random() % 8 == 0) c.logits[random() % vocab] = c.logits[0] - 1000;
      c.params.temperature = std::exp(uniform(-3, 3));
      if (random() % 2 != 0) c.params.top_k = static_cast<int64_t>(1 + random() % (vocab + 5));
      if (random() % 2 != 0) c.params.top_p = uniform(0.01, 1);
      if (random() % 2 != 0) c.params.min_p = uniform(0, random() % 2 != 0 ? 1 : 0.05);
      c.params.choice_index = static_cast<uint32_t>(random() % 3);
      c.seed = (uint64_t{random()} << 32) | random();
      c.output.assign(random() % 5, 0);
      ASSERT_EQ(c.sample(sampler).token, sample_by_definition(c))
          << "vocab " << vocab << " trial " << trial << " top_k " << c.params.top_k << " top_p "
          << c.params.top_p << " min_p " << c.params.min_p << " temperature " << c.params.temperature;
    }
  }
}

TEST(Sampler, TheWholeVocabularyAsTopKIsNoTopK) {
  std::mt19937 random(5);
  Sampler sampler(500);
  for (int trial = 0; trial < random_cases(500); ++trial) {
    Case c;
    c.logits = random_logits(random, 500, 4);
    c.logits[static_cast<size_t>(random() % 500)] =
        -kInf;  // no weight, so leaving one token out changes nothing
    c.params.top_p = 0.9;
    c.seed = random();
    const int32_t token = c.sample(sampler).token;
    c.params.top_k = 499;
    EXPECT_EQ(c.sample(sampler).token, token);
    c.params.top_k = 500;
    EXPECT_EQ(c.sample(sampler).token, token);
  }
}

std::set<int32_t> reachable(Case c, int draws = 3000) {
  Sampler sampler(static_cast<int64_t>(c.logits.size()));
  std::set<int32_t> tokens;
  for (int i = 0; i < draws; ++i) {
    c.seed = static_cast<uint64_t>(i);
    tokens.insert(c.sample(sampler).token);
  }
  return tokens;
}

TEST(Sampler, FiltersKeepWhatTheyShould) {
  Case c;
  c.logits = {0, 0, 0, 0};
  EXPECT_EQ(reachable(c), (std::set<int32_t>{0, 1, 2, 3}));
  c.params.top_k = 2;  // ties: the lowest ids
  EXPECT_EQ(reachable(c), (std::set<int32_t>{0, 1}));
  c.params.top_k = -1;
  c.params.top_p = 0.5;  // reached exactly by two
  EXPECT_EQ(reachable(c), (std::set<int32_t>{0, 1}));
  c.params.top_p = 0.51;
  EXPECT_EQ(reachable(c), (std::set<int32_t>{0, 1, 2}));
  c.params.top_p = 1e-12;
  EXPECT_EQ(reachable(c), (std::set<int32_t>{0}));
  // top_p counts what top_k left: of {0.4, 0.3, 0.2, 0.1} top_k 2 leaves 4/7 and 3/7.
  c.logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
  c.params.top_p = 0.55;
  EXPECT_EQ(reachable(c), (std::set<int32_t>{1, 3}));
  c.params.top_k = 2;
  EXPECT_EQ(reachable(c), (std::set<int32_t>{1}));
  // min_p is relative to the most likely token.
  c.params.top_k = 0;
  c.params.top_p = 1;
  c.params.min_p = 0.45;
  EXPECT_EQ(reachable(c), (std::set<int32_t>{1, 2, 3}));
  c.params.min_p = 0.6;
  EXPECT_EQ(reachable(c), (std::set<int32_t>{1, 3}));
  c.params.min_p = 1;
  EXPECT_EQ(reachable(c), (std::set<int32_t>{1}));
}

// Pearson's statistic for n draws against the given distribution.
template <typename Draw>
double chi_square(const std::vector<double>& expected, int n, Draw draw) {
  std::vector<int> counts(expected.size(), 0);
  for (int i = 0; i < n; ++i) ++counts.at(static_cast<size_t>(draw(i)));
  double statistic = 0;
  for (size_t t = 0; t < expected.size(); ++t) {
    const double e = expected[t] * n;
    statistic += (counts[t] - e) * (counts[t] - e) / e;
  }
  return statistic;
}

TEST(Sampler, FrequenciesFollowTheDistribution) {
  const std::vector<double> p{0.05, 0.3, 0.1, 0.25, 0.02, 0.08, 0.15, 0.05};
  Case c;
  for (const double x : p) c.logits.push_back(static_cast<float>(std::log(x)));
  Sampler sampler(8);
  constexpr int kDraws = 50000;
  constexpr double kLimit = 24.3;  // 99.9% of the chi-square distribution with 7 degrees of freedom
  EXPECT_LT(chi_square(p, kDraws,
                       [&](int i) {
                         c.seed = static_cast<uint64_t>(i);
                         return c.sample(sampler).token;
                       }),
            kLimit)
      << "over seeds";
  c.seed = 99;
  EXPECT_LT(chi_square(p, kDraws,
                       [&](int i) {
                         c.params.choice_index = static_cast<uint32_t>(i);
                         return c.sample(sampler).token;
                       }),
            kLimit)
      << "over choices";
  EXPECT_LT(chi_square(p, 5000,
                       [&](int i) {
                         c.output.assign(static_cast<size_t>(i), 0);
                         return c.sample(sampler).token;
                       }),
            kLimit)
      << "over positions";
  // At temperature 2 probabilities go with their square roots.
  std::vector<double> softer;
  for (const double x : p) softer.push_back(std::sqrt(x));
  const double sum = std::accumulate(softer.begin(), softer.end(), 0.0);
  for (double& x : softer) x /= sum;
  c.params.temperature = 2;
  auto over_seeds = [&](int i) {
    c.seed = static_cast<uint64_t>(i);
    return c.sample(sampler).token;
  };
  c.output.clear();
  EXPECT_LT(chi_square(softer, kDraws, over_seeds), kLimit);
  EXPECT_GT(chi_square(p, kDraws, over_seeds), 10 * kLimit) << "the test must be able to fail";
}

TEST(Sampler, DependsOnSeedChoiceAndPositionAndNothingElse) {
  std::mt19937 random(6);
  Case c;
  c.logits = random_logits(random, 5000, 0.1f);
  c.seed = 7;
  Sampler sampler(5000);
  const int32_t token = c.sample(sampler).token;
  Case other = c;
  other.params.top_k = 10;
  other.sample(sampler);  // what came before does not matter
  EXPECT_EQ(c.sample(sampler).token, token);
  EXPECT_EQ(c.sample().token, token);
  c.params.seed = 1234;  // the engine has resolved it
  EXPECT_EQ(c.sample(sampler).token, token);

  auto distinct = [&](auto change) {
    std::set<int32_t> tokens;
    for (uint32_t i = 0; i < 20; ++i) {
      Case varied = c;
      change(varied, i);
      tokens.insert(varied.sample(sampler).token);
    }
    return tokens.size();
  };
  EXPECT_GT(distinct([](Case& v, uint32_t i) { v.seed = i; }), 15u);
  EXPECT_GT(distinct([](Case& v, uint32_t i) { v.params.choice_index = i; }), 15u);
  EXPECT_GT(distinct([](Case& v, uint32_t i) { v.output.assign(i, 0); }), 15u);
}

// ---- logprobs ----

TEST(Logprobs, AreTheLogSoftmaxWithTheMostLikelyFirst) {
  std::mt19937 random(8);
  for (const size_t vocab : {size_t{1}, size_t{7}, size_t{2000}}) {
    Sampler sampler(static_cast<int64_t>(vocab));
    const auto logits = random_logits(random, vocab, 5);
    long double sum = 0;
    for (const float x : logits) sum += std::exp(static_cast<long double>(x));
    const auto expected = [&](int32_t token) {
      return static_cast<double>(static_cast<long double>(logits[static_cast<size_t>(token)]) -
                                 std::log(sum));
    };
    std::vector<int32_t> order(vocab);
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, [&](int32_t a, int32_t b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    for (const int32_t n : {0, 1, 5, 20, kMaxTopLogprobs}) {
      const auto token = static_cast<int32_t>(random() % vocab);
      const auto result = sampler.logprobs(logits, token, n);
      ASSERT_TRUE(result.has_value());
      EXPECT_NEAR(result->logprob, expected(token), 1e-5);
      ASSERT_EQ(result->top.size(), std::min(vocab, static_cast<size_t>(n)));
      for (size_t i = 0; i < result->top.size(); ++i) {
        EXPECT_EQ(result->top[i].first, order[i]);
        EXPECT_NEAR(result->top[i].second, expected(order[i]), 1e-5);
      }
    }
  }
}

TEST(Logprobs, TiesAreInOrderOfIds) {
  Sampler sampler(5);
  const std::vector<float> logits{1, 2, 1, 2, 1};
  const auto result = sampler.logprobs(logits, 0, 4);
  std::vector<int32_t> ids;
  for (const auto& [id, logprob] : result->top) ids.push_back(id);
  EXPECT_EQ(ids, (std::vector<int32_t>{1, 3, 0, 2}));
}

TEST(Logprobs, LargeLogitsDoNotOverflow) {
  Sampler sampler(3);
  const std::vector<float> logits{1e30f, 1e30f, -kInf};
  const auto result = sampler.logprobs(logits, 1, 3);
  EXPECT_NEAR(result->logprob, -std::log(2.0), 1e-6);
  EXPECT_EQ(result->top[2], (std::pair<int32_t, float>{2, -kInf}));
}

}  // namespace
}  // namespace chorale::engine
