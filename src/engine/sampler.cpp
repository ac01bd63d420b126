#include "engine/sampler.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "base/error.h"

namespace chorale::engine {
namespace {

template <typename T, size_t n>
Tensor as_row(std::span<T, n> values, DType dtype) {
  using Element = std::remove_const_t<T>;
  const auto size = static_cast<int64_t>(values.size());
  return {const_cast<Element*>(values.data()), dtype, 1, size, size};
}

bool penalizes(const SamplingParams& p) {
  return p.repetition_penalty != 1 || p.frequency_penalty != 0 || p.presence_penalty != 0;
}

}  // namespace

bool is_stop_token(int32_t token, const SamplingParams& params, std::span<const int32_t> eos_token_ids) {
  if (!params.ignore_eos && std::ranges::find(eos_token_ids, token) != eos_token_ids.end()) return true;
  return std::ranges::find(params.stop_token_ids, token) != params.stop_token_ids.end();
}

Sampler::Sampler(int64_t vocab_size) : vocab_size_(static_cast<size_t>(vocab_size)), counts_(vocab_size_) {
  CHORALE_CHECK(vocab_size >= 1 && vocab_size <= kMaxVocabulary, "a vocabulary of {} tokens", vocab_size);
  scratch_ = Buffer(static_cast<size_t>(sample_scratch_bytes(vocab_size)));
}

Sampled Sampler::sample(const SampleInput& input) {
  const SamplingParams& p = input.params;
  list_bias(input);
  const bool counts = penalizes(p);
  if (counts) count_text(input);
  const Sampled sampled = run(input.logits, input.allowed,
                              {.temperature = p.temperature,
                               .top_p = p.top_p,
                               .min_p = p.min_p,
                               .repetition_penalty = p.repetition_penalty,
                               .frequency_penalty = p.frequency_penalty,
                               .presence_penalty = p.presence_penalty,
                               .seed = input.seed,
                               .position = input.prompt.size() + input.output.size(),
                               .random_stream = p.choice_index,
                               .top_k = static_cast<int32_t>(std::min(p.top_k, kMaxVocabulary)),
                               .is_masked = input.allowed.empty() ? 0 : 1,
                               .count_slot = counts ? 0 : -1},
                              {});
  if (counts) forget_text(input, sampled.token);
  return sampled;
}

// Bias, and the stop tokens before min_new_tokens.
void Sampler::list_bias(const SampleInput& input) {
  constexpr float kForbidden = -std::numeric_limits<float>::infinity();
  const SamplingParams& p = input.params;
  bias_tokens_.clear();
  biases_.clear();
  const auto add = [&](int32_t token, float bias) {
    bias_tokens_.push_back(token);
    biases_.push_back(bias);
  };
  for (const auto& [token, bias] : p.logit_bias) add(token, bias);
  if (static_cast<int64_t>(input.output.size()) >= p.min_new_tokens) return;
  for (const int32_t token : p.stop_token_ids) add(token, kForbidden);
  if (p.ignore_eos) return;
  for (const int32_t token : input.eos_token_ids) {
    if (token >= 0 && static_cast<size_t>(token) < vocab_size_) add(token, kForbidden);
  }
}

// Counts what penalties go by, in a table that is zero between calls.
void Sampler::count_text(const SampleInput& input) {
  for (const int32_t token : input.prompt) counts_[static_cast<size_t>(token)] |= kInPrompt;
  for (const int32_t token : input.output) ++counts_[static_cast<size_t>(token)];
}

void Sampler::forget_text(const SampleInput& input, int32_t chosen) {
  for (const int32_t token : input.prompt) counts_[static_cast<size_t>(token)] = 0;
  for (const int32_t token : input.output) counts_[static_cast<size_t>(token)] = 0;
  if (chosen >= 0) counts_[static_cast<size_t>(chosen)] = 0;
}

Sampled Sampler::run(std::span<const float> logits, std::span<const uint32_t> allowed,
                     const SampleParams& params, const SampledRows& output) {
  CHORALE_CHECK(logits.size() == vocab_size_);
  const std::array<int32_t, 2> bias_offsets{0, static_cast<int32_t>(bias_tokens_.size())};
  int32_t token = -1;
  int32_t status = 0;
  SampledRows rows = output;
  rows.tokens = as_row(std::span(&token, 1), DType::i32);
  rows.statuses = as_row(std::span(&status, 1), DType::i32);
  const size_t words = (vocab_size_ + 31) / 32;
  CHORALE_CHECK(allowed.empty() || allowed.size() >= words);
  chorale::sample(stream_,
                  {.logits = as_row(logits, DType::f32),
                   .params = as_row(std::as_bytes(std::span(&params, 1)), DType::u8),
                   .bias = {.offsets = as_row(std::span(bias_offsets), DType::i32),
                            .tokens = as_row(std::span(bias_tokens_), DType::i32),
                            .values = as_row(std::span(biases_), DType::f32)},
                   .counts = as_row(std::span(counts_), DType::i32),
                   .allowed = as_row(allowed.first(std::min(words, allowed.size())), DType::i32)},
                  as_row(std::span(scratch_.data(), scratch_.size()), DType::u8), rows);
  return {static_cast<SampleStatus>(status), token};
}

std::optional<TokenLogprobs> Sampler::logprobs(std::span<const float> logits, int32_t token,
                                               int32_t num_top) {
  CHORALE_CHECK(num_top >= 0 && num_top <= kMaxTopLogprobs);
  bias_tokens_.clear();
  biases_.clear();
  const size_t count = std::min(static_cast<size_t>(num_top), vocab_size_);
  std::array<float, 1 + kMaxTopLogprobs> logprobs;
  std::array<int32_t, kMaxTopLogprobs> top_tokens;
  const Sampled sampled = run(logits, {}, {.num_top = num_top, .given_token = token},
                              {.tokens = {},
                               .statuses = {},
                               .logprobs = as_row(std::span(logprobs).first(1 + count), DType::f32),
                               .top_tokens = as_row(std::span(top_tokens).first(count), DType::i32)});
  if (sampled.status != SampleStatus::ok) return std::nullopt;
  TokenLogprobs result;
  result.logprob = logprobs[0];
  result.top.reserve(count);
  for (size_t i = 0; i < count; ++i) result.top.emplace_back(top_tokens[i], logprobs[1 + i]);
  return result;
}

}  // namespace chorale::engine
