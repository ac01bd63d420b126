#include "engine/request.h"

#include <algorithm>
#include <cmath>
#include <string>

#include <fmt/format.h>

namespace chorale::engine {
namespace {

template <typename... Args>
RequestError invalid(const char* field, fmt::format_string<Args...> format, Args&&... args) {
  return {.kind = RequestError::Kind::invalid,
          .message = fmt::format("{} must be {}", field, fmt::format(format, std::forward<Args>(args)...)),
          .param = field};
}

bool in_vocabulary(int32_t id, int64_t vocab_size) {
  return id >= 0 && id < vocab_size;
}

// Written so that NaN is outside every range.
bool within(double value, double low, double high) {
  return value >= low && value <= high;
}

std::optional<RequestError> validate_numbers(const SamplingParams& p) {
  if (p.max_new_tokens < 1) return invalid("max_new_tokens", "at least 1, but is {}", p.max_new_tokens);
  if (p.min_new_tokens < 0 || p.min_new_tokens > p.max_new_tokens) {
    return invalid("min_new_tokens", "between 0 and max_new_tokens ({}), but is {}", p.max_new_tokens,
                   p.min_new_tokens);
  }
  if (!std::isfinite(p.temperature) || p.temperature < 0) {
    return invalid("temperature", "0 or a finite positive number, but is {}", p.temperature);
  }
  if (!(p.top_p > 0 && p.top_p <= 1)) return invalid("top_p", "above 0 and at most 1, but is {}", p.top_p);
  if (p.top_k < -1) return invalid("top_k", "-1 (all tokens) or more, but is {}", p.top_k);
  if (!within(p.min_p, 0, 1)) return invalid("min_p", "between 0 and 1, but is {}", p.min_p);
  if (!std::isfinite(p.repetition_penalty) || p.repetition_penalty <= 0) {
    return invalid("repetition_penalty", "a finite number above 0, but is {}", p.repetition_penalty);
  }
  if (!within(p.frequency_penalty, -2, 2)) {
    return invalid("frequency_penalty", "between -2 and 2, but is {}", p.frequency_penalty);
  }
  if (!within(p.presence_penalty, -2, 2)) {
    return invalid("presence_penalty", "between -2 and 2, but is {}", p.presence_penalty);
  }
  return std::nullopt;
}

std::optional<RequestError> validate_tokens(const SamplingParams& p, int64_t vocab_size) {
  if (p.logit_bias.size() > kMaxLogitBias) {
    return invalid("logit_bias", "a list of at most {} tokens, but has {}", kMaxLogitBias,
                   p.logit_bias.size());
  }
  for (const auto& [token, bias] : p.logit_bias) {
    if (!in_vocabulary(token, vocab_size)) {
      return invalid("logit_bias", "for token ids between 0 and {}, but has {}", vocab_size - 1, token);
    }
    if (!std::isfinite(bias)) {
      return invalid("logit_bias", "made of finite numbers, but has {} for token {}", bias, token);
    }
  }
  if (p.stop_token_ids.size() > kMaxStopTokenIds) {
    return invalid("stop_token_ids", "a list of at most {} tokens, but has {}", kMaxStopTokenIds,
                   p.stop_token_ids.size());
  }
  for (const int32_t token : p.stop_token_ids) {
    if (!in_vocabulary(token, vocab_size)) {
      return invalid("stop_token_ids", "token ids between 0 and {}, but has {}", vocab_size - 1, token);
    }
  }
  return std::nullopt;
}

}  // namespace

std::optional<RequestError> SamplingParams::validate(int64_t vocab_size) const {
  if (auto error = validate_numbers(*this)) return error;
  return validate_tokens(*this, vocab_size);
}

bool has_penalties(const SamplingParams& p) {
  return p.repetition_penalty != 1 || p.frequency_penalty != 0 || p.presence_penalty != 0;
}

bool is_stop_token(int32_t token, const SamplingParams& params, std::span<const int32_t> eos_token_ids) {
  if (!params.ignore_eos && std::ranges::find(eos_token_ids, token) != eos_token_ids.end()) return true;
  return std::ranges::find(params.stop_token_ids, token) != params.stop_token_ids.end();
}

std::optional<RequestError> GenerationRequest::validate(int64_t vocab_size) const {
  if (prompt_ids.empty()) {
    return RequestError{.kind = RequestError::Kind::invalid,
                        .message = "the prompt is empty: at least one token is needed",
                        .param = "prompt"};
  }
  for (const int32_t token : prompt_ids) {
    if (in_vocabulary(token, vocab_size)) continue;
    return RequestError{
        .kind = RequestError::Kind::invalid,
        .message = fmt::format("the prompt has token id {}, but the model's vocabulary ends at {}", token,
                               vocab_size - 1),
        .param = "prompt"};
  }
  if (num_top_logprobs < -1 || num_top_logprobs > kMaxTopLogprobs) {
    return invalid("top_logprobs", "at most {}, but is {}", kMaxTopLogprobs, num_top_logprobs);
  }
  if (prompt_logprobs_start < -1 || prompt_logprobs_start > static_cast<int64_t>(prompt_ids.size())) {
    return invalid("prompt_logprobs_start", "between -1 (none) and the prompt's {} tokens, but is {}",
                   prompt_ids.size(), prompt_logprobs_start);
  }
  return sampling.validate(vocab_size);
}

}  // namespace chorale::engine
