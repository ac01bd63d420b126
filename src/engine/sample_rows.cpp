#include "engine/sample_rows.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace chorale::engine {
namespace {

void add_row(const SampleParams& params, SamplePlan& plan) {
  plan.params.push_back(params);
  plan.bias_offsets.push_back(static_cast<int32_t>(plan.biases.size()));
}

// Whether a constraint allows stop tokens alone: its end wins over min_new_tokens.
bool must_end(const ChoiceRow& row) {
  if (row.allowed.empty()) return false;
  const auto is_in = [](int32_t token, std::span<const int32_t> tokens) {
    return std::ranges::find(tokens, token) != tokens.end();
  };
  for (size_t word = 0; word < row.allowed.size(); ++word) {
    for (uint32_t bits = row.allowed[word]; bits != 0; bits &= bits - 1) {
      const auto token = static_cast<int32_t>(word * 32) + std::countr_zero(bits);
      if (!is_in(token, row.params.stop_token_ids) && !is_in(token, row.eos_token_ids)) return false;
    }
  }
  return true;
}

// The request's, and the stop tokens before min_new_tokens.
void add_biases(const ChoiceRow& row, int64_t vocab_size, SamplePlan& plan) {
  constexpr float kForbidden = -std::numeric_limits<float>::infinity();
  const SamplingParams& p = row.params;
  const auto add = [&](int32_t token, float bias) {
    plan.bias_tokens.push_back(token);
    plan.biases.push_back(bias);
  };
  for (const auto& [token, bias] : p.logit_bias) add(token, bias);
  if (static_cast<int64_t>(row.output.size()) >= p.min_new_tokens || must_end(row)) return;
  for (const int32_t token : p.stop_token_ids) add(token, kForbidden);
  if (p.ignore_eos) return;
  for (const int32_t token : row.eos_token_ids) {
    if (token >= 0 && token < vocab_size) add(token, kForbidden);
  }
}

}  // namespace

void add_choice(const ChoiceRow& row, int64_t vocab_size, SamplePlan& plan) {
  const SamplingParams& p = row.params;
  add_biases(row, vocab_size, plan);
  if (!row.allowed.empty()) plan.masks.push_back(row.allowed);
  add_row({.temperature = p.temperature,
           .top_p = p.top_p,
           .min_p = p.min_p,
           .repetition_penalty = p.repetition_penalty,
           .frequency_penalty = p.frequency_penalty,
           .presence_penalty = p.presence_penalty,
           .seed = row.seed,
           .position = row.prompt.size() + row.output.size(),
           .random_stream = p.choice_index,
           .top_k = static_cast<int32_t>(std::min(p.top_k, kMaxVocabulary)),
           .num_top = row.num_top_logprobs,
           .is_masked = row.allowed.empty() ? 0 : 1,
           .count_slot = row.count_slot},
          plan);
}

void add_score(int32_t token, int32_t num_top_logprobs, SamplePlan& plan) {
  add_row({.num_top = num_top_logprobs, .given_token = token}, plan);
}

void add_text(int32_t slot, std::span<const int32_t> prompt, std::span<const int32_t> output,
              SamplePlan& plan) {
  plan.texts.push_back({.slot = slot,
                        .num_prompt = static_cast<int64_t>(prompt.size()),
                        .num_output = static_cast<int64_t>(output.size())});
  plan.text_tokens.insert(plan.text_tokens.end(), prompt.begin(), prompt.end());
  plan.text_tokens.insert(plan.text_tokens.end(), output.begin(), output.end());
}

}  // namespace chorale::engine
