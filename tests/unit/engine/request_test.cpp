#include "engine/request.h"

#include <cmath>
#include <functional>
#include <limits>

#include <gtest/gtest.h>

namespace chorale::engine {
namespace {

constexpr int64_t kVocab = 100;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

GenerationRequest valid_request() {
  GenerationRequest request;
  request.id = "r";
  request.prompt_ids = {1, 2, 3};
  return request;
}

// Empty when the change is accepted, else the field that is named.
std::string refused_field(const std::function<void(GenerationRequest&)>& change) {
  GenerationRequest request = valid_request();
  change(request);
  const auto error = request.validate(kVocab);
  if (!error) return "";
  EXPECT_EQ(error->kind, RequestError::Kind::invalid);
  EXPECT_FALSE(error->message.empty());
  return error->param;
}

template <typename T>
std::string refused(T SamplingParams::*field, T value) {
  return refused_field([&](GenerationRequest& r) { r.sampling.*field = value; });
}

TEST(Validate, DefaultsAreValid) {
  EXPECT_EQ(refused_field([](GenerationRequest&) {}), "");
}

TEST(Validate, Lengths) {
  EXPECT_EQ(refused(&SamplingParams::max_new_tokens, int64_t{1}), "");
  EXPECT_EQ(refused(&SamplingParams::max_new_tokens, std::numeric_limits<int64_t>::max()), "");
  EXPECT_EQ(refused(&SamplingParams::max_new_tokens, int64_t{0}), "max_new_tokens");
  EXPECT_EQ(refused(&SamplingParams::max_new_tokens, int64_t{-1}), "max_new_tokens");
  EXPECT_EQ(refused(&SamplingParams::min_new_tokens, int64_t{128}), "");
  EXPECT_EQ(refused(&SamplingParams::min_new_tokens, int64_t{129}), "min_new_tokens");
  EXPECT_EQ(refused(&SamplingParams::min_new_tokens, int64_t{-1}), "min_new_tokens");
}

TEST(Validate, Temperature) {
  for (const double good : {0.0, 1e-300, 1.0, 1e300})
    EXPECT_EQ(refused(&SamplingParams::temperature, good), "");
  for (const double bad : {-1e-9, -1.0, kNan, kInf}) {
    EXPECT_EQ(refused(&SamplingParams::temperature, bad), "temperature") << bad;
  }
}

TEST(Validate, Truncation) {
  for (const double good : {1e-9, 0.5, 1.0}) EXPECT_EQ(refused(&SamplingParams::top_p, good), "");
  for (const double bad : {0.0, -0.1, 1.0001, kNan, kInf})
    EXPECT_EQ(refused(&SamplingParams::top_p, bad), "top_p");
  for (const int64_t good : {int64_t{-1}, int64_t{0}, int64_t{1}, std::numeric_limits<int64_t>::max()}) {
    EXPECT_EQ(refused(&SamplingParams::top_k, good), "");
  }
  EXPECT_EQ(refused(&SamplingParams::top_k, int64_t{-2}), "top_k");
  for (const double good : {0.0, 0.5, 1.0}) EXPECT_EQ(refused(&SamplingParams::min_p, good), "");
  for (const double bad : {-0.1, 1.1, kNan}) EXPECT_EQ(refused(&SamplingParams::min_p, bad), "min_p");
}

TEST(Validate, Penalties) {
  for (const double good : {1e-9, 1.0, 1e9})
    EXPECT_EQ(refused(&SamplingParams::repetition_penalty, good), "");
  for (const double bad : {0.0, -1.0, kNan, kInf}) {
    EXPECT_EQ(refused(&SamplingParams::repetition_penalty, bad), "repetition_penalty");
  }
  for (const double good : {-2.0, 0.0, 2.0}) {
    EXPECT_EQ(refused(&SamplingParams::frequency_penalty, good), "");
    EXPECT_EQ(refused(&SamplingParams::presence_penalty, good), "");
  }
  for (const double bad : {-2.01, 2.01, kNan, kInf}) {
    EXPECT_EQ(refused(&SamplingParams::frequency_penalty, bad), "frequency_penalty");
    EXPECT_EQ(refused(&SamplingParams::presence_penalty, bad), "presence_penalty");
  }
}

TEST(Validate, LogitBias) {
  using Bias = std::vector<std::pair<int32_t, float>>;
  auto with = [](Bias bias) { return refused(&SamplingParams::logit_bias, std::move(bias)); };
  EXPECT_EQ(with({{0, -100.0f}, {99, 100.0f}}), "");
  EXPECT_EQ(with({{-1, 0.0f}}), "logit_bias");
  EXPECT_EQ(with({{100, 0.0f}}), "logit_bias");
  EXPECT_EQ(with({{0, std::numeric_limits<float>::infinity()}}), "logit_bias");
  EXPECT_EQ(with({{0, std::numeric_limits<float>::quiet_NaN()}}), "logit_bias");
  EXPECT_EQ(with(Bias(kMaxLogitBias, {1, 1.0f})), "");
  EXPECT_EQ(with(Bias(kMaxLogitBias + 1, {1, 1.0f})), "logit_bias");
}

TEST(Validate, StopTokens) {
  auto with = [](std::vector<int32_t> ids) {
    return refused(&SamplingParams::stop_token_ids, std::move(ids));
  };
  EXPECT_EQ(with({0, 99}), "");
  EXPECT_EQ(with({-1}), "stop_token_ids");
  EXPECT_EQ(with({100}), "stop_token_ids");
  EXPECT_EQ(with(std::vector<int32_t>(kMaxStopTokenIds, 1)), "");
  EXPECT_EQ(with(std::vector<int32_t>(kMaxStopTokenIds + 1, 1)), "stop_token_ids");
}

TEST(Validate, Prompt) {
  EXPECT_EQ(refused_field([](GenerationRequest& r) { r.prompt_ids.clear(); }), "prompt");
  EXPECT_EQ(refused_field([](GenerationRequest& r) { r.prompt_ids = {0, 99}; }), "");
  EXPECT_EQ(refused_field([](GenerationRequest& r) { r.prompt_ids = {0, 100}; }), "prompt");
  EXPECT_EQ(refused_field([](GenerationRequest& r) { r.prompt_ids = {-1}; }), "prompt");
}

TEST(Validate, Logprobs) {
  for (const int32_t good : {-1, 0, 20, kMaxTopLogprobs}) {
    EXPECT_EQ(refused_field([&](GenerationRequest& r) { r.num_top_logprobs = good; }), "");
  }
  for (const int32_t bad : {-2, kMaxTopLogprobs + 1}) {
    EXPECT_EQ(refused_field([&](GenerationRequest& r) { r.num_top_logprobs = bad; }), "top_logprobs");
  }
  for (const int64_t good : {-1, 0, 3}) {
    EXPECT_EQ(refused_field([&](GenerationRequest& r) { r.prompt_logprobs_start = good; }), "");
  }
  for (const int64_t bad : {-2, 4}) {
    EXPECT_EQ(refused_field([&](GenerationRequest& r) { r.prompt_logprobs_start = bad; }),
              "prompt_logprobs_start");
  }
}

}  // namespace
}  // namespace chorale::engine
