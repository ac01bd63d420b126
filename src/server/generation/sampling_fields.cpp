#include "server/generation/sampling_fields.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <utility>

#include "server/wire/bad_request.h"

namespace chorale::server {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kMaxPenalty = 2.0;  // as OpenAI's API
constexpr double kMaxLogitBias = 100.0;

// {"token id": bias, ...}
std::vector<std::pair<int32_t, float>> read_logit_bias(Fields& fields, int64_t vocab_size) {
  std::vector<std::pair<int32_t, float>> biases;
  const Json* value = fields.get("logit_bias");
  if (value == nullptr) return biases;
  const std::string param = fields.param("logit_bias");
  if (!value->is_object()) {
    bad_request(param, "'{}' must be an object from token ids to numbers, not {}", param, describe(*value));
  }
  for (const auto& [key, bias] : value->items()) {
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0 || id >= vocab_size) {
      bad_request(param, "'{}' has the key {}, which is not a token id from 0 to {}", param, quote(key),
                  vocab_size - 1);
    }
    biases.emplace_back(id, static_cast<float>(to_number(bias, param, -kMaxLogitBias, kMaxLogitBias)));
  }
  return biases;
}

std::vector<std::string> read_stop(Fields& fields, const RequestLimits& limits) {
  std::vector<std::string> stops;
  const Json* value = fields.get("stop");
  if (value == nullptr) return stops;
  const std::string param = fields.param("stop");
  if (value->is_string()) {
    stops.push_back(value->get<std::string>());
  } else if (value->is_array()) {
    if (std::ssize(*value) > limits.max_stop_strings) {
      bad_request(param, "'{}' may have at most {} strings, not {}", param, limits.max_stop_strings,
                  value->size());
    }
    for (const Json& stop : *value) stops.push_back(to_string(stop, param));
  } else {
    bad_request(param, "'{}' must be a string or a list of strings, not {}", param, describe(*value));
  }
  for (const std::string& stop : stops) {
    if (stop.empty()) bad_request(param, "'{}' must not have an empty string", param);
    if (std::ssize(stop) > limits.max_stop_bytes) {
      bad_request(param, "a string of '{}' may have at most {} bytes, not {}", param, limits.max_stop_bytes,
                  stop.size());
    }
  }
  return stops;
}

void read_distribution(Fields& fields, const io::GenerationDefaults& defaults,
                       engine::SamplingParams& params) {
  const bool greedy = defaults.do_sample.has_value() && !*defaults.do_sample;
  const double temperature = greedy ? 0.0 : defaults.temperature.value_or(1.0);
  params.temperature = fields.number("temperature", 0, kInfinity).value_or(temperature);
  params.top_p = fields.number("top_p", 0, 1).value_or(defaults.top_p.value_or(1.0));
  params.top_k = fields.integer("top_k", -1, INT64_MAX).value_or(defaults.top_k.value_or(0));
  params.min_p = fields.number("min_p", 0, 1).value_or(defaults.min_p.value_or(0.0));
  params.repetition_penalty =
      fields.number("repetition_penalty", 0, kInfinity).value_or(defaults.repetition_penalty.value_or(1.0));
  params.frequency_penalty = fields.number("frequency_penalty", -kMaxPenalty, kMaxPenalty).value_or(0.0);
  params.presence_penalty = fields.number("presence_penalty", -kMaxPenalty, kMaxPenalty).value_or(0.0);
}

void read_lengths(Fields& fields, const SamplingNames& names, SamplingRequest& out) {
  out.max_tokens_param = fields.param(names.max_tokens);
  out.max_tokens = fields.integer(names.max_tokens, 0, INT64_MAX);
  if (!names.max_tokens_preferred.empty()) {
    if (auto preferred = fields.integer(names.max_tokens_preferred, 0, INT64_MAX)) {
      out.max_tokens = preferred;
      out.max_tokens_param = fields.param(names.max_tokens_preferred);
    }
  }
  out.params.min_new_tokens = fields.integer(names.min_tokens, 0, INT64_MAX).value_or(0);
  if (out.max_tokens && out.params.min_new_tokens > *out.max_tokens) {
    const std::string param = fields.param(names.min_tokens);
    bad_request(param, "'{}' is {}, more than '{}', which is {}", param, out.params.min_new_tokens,
                out.max_tokens_param, *out.max_tokens);
  }
}

}  // namespace

SamplingRequest read_sampling(Fields& fields, const SamplingNames& names, const RequestContext& context) {
  SamplingRequest out;
  read_distribution(fields, context.model.defaults, out.params);
  read_lengths(fields, names, out);
  out.params.logit_bias = read_logit_bias(fields, context.vocab_size);
  if (const Json* ids = fields.get("stop_token_ids")) {
    out.params.stop_token_ids = to_token_ids(*ids, fields.param("stop_token_ids"), context.vocab_size);
  }
  out.params.ignore_eos = fields.boolean("ignore_eos").value_or(false);
  std::optional<int64_t> seed = fields.integer("seed", INT64_MIN, INT64_MAX);
  if (!names.seed_alias.empty()) {
    if (const auto alias = fields.integer(names.seed_alias, INT64_MIN, INT64_MAX)) seed = alias;
  }
  if (seed) out.params.seed = static_cast<uint64_t>(*seed);

  out.text.stop = read_stop(fields, context.limits);
  out.text.include_stop = fields.boolean(names.include_stop).value_or(false);
  out.text.skip_special_tokens = fields.boolean("skip_special_tokens").value_or(true);
  out.text.min_new_tokens = out.params.min_new_tokens;
  fields.refuse("spaces_between_special_tokens", "the tokenizer decides about spaces", {true});
  return out;
}

int64_t plan_length(int64_t prompt_tokens, const std::string& prompt_param, const SamplingRequest& sampling,
                    std::optional<int64_t> default_tokens, const RequestContext& context) {
  const int64_t room = context.model.max_context_len - prompt_tokens;
  if (prompt_tokens == 0) bad_request(prompt_param, "the prompt has no tokens; at least one is needed");
  if (room < 1) {
    bad_request(prompt_param,
                "the prompt has {} tokens, but the model's context is {} tokens, prompt and answer together",
                prompt_tokens, context.model.max_context_len);
  }
  if (sampling.params.min_new_tokens > room || (sampling.max_tokens && *sampling.max_tokens > room)) {
    bad_request(
        sampling.max_tokens_param,
        "the prompt has {} tokens and {} more were asked for, but the model's context is {} tokens, prompt "
        "and answer together",
        prompt_tokens, std::max(sampling.max_tokens.value_or(0), sampling.params.min_new_tokens),
        context.model.max_context_len);
  }
  if (sampling.max_tokens) return *sampling.max_tokens;
  const int64_t by_default = std::min(default_tokens.value_or(room), room);
  return std::max(by_default, sampling.params.min_new_tokens);
}

void check_model(Fields& fields, const RequestContext& context) {
  if (const auto name = fields.string("model")) check_model_name(*name, context);
}

void check_model_name(const std::string& name, const RequestContext& context) {
  if (name == context.model_name) return;
  throw BadRequest(ErrorAnswer{.status = 404,
                               .message = fmt::format("the model {} is not served here; this server has '{}'",
                                                      quote(name), context.model_name),
                               .param = "model"});
}

}  // namespace chorale::server
