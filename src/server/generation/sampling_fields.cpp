#include "server/generation/sampling_fields.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <utility>

#include <fmt/ranges.h>

#include "server/wire/bad_request.h"

namespace chorale::server {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kMaxPenalty = 2.0;  // as OpenAI's API
constexpr double kMaxLogitBias = 100.0;
constexpr std::string_view kReasoningOpen = "<think>";
constexpr std::string_view kReasoningClose = "</think>";

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

std::vector<std::string> read_stop(Fields& fields, std::string_view name, const RequestLimits& limits) {
  std::vector<std::string> stops;
  const Json* value = fields.get(name);
  if (value == nullptr) return stops;
  const std::string param = fields.param(name);
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

// As vLLM has it: a word is forbidden at the beginning of a text and after a space.
std::vector<std::vector<int32_t>> read_bad_words(Fields& fields, const RequestContext& context) {
  std::vector<std::vector<int32_t>> words;
  const Json* value = fields.get("bad_words");
  if (value == nullptr) return words;
  const std::string param = fields.param("bad_words");
  if (!value->is_array())
    bad_request(param, "'{}' must be a list of strings, not {}", param, describe(*value));
  if (std::ssize(*value) > context.limits.max_bad_words) {
    bad_request(param, "'{}' may have at most {} strings, not {}", param, context.limits.max_bad_words,
                value->size());
  }
  for (const Json& entry : *value) {
    const std::string& text = to_string(entry, param);
    const std::string word = text.substr(std::min(text.find_first_not_of(' '), text.size()));
    if (word.empty()) bad_request(param, "'{}' must not have an empty string", param);
    if (std::ssize(word) > context.limits.max_stop_bytes) {
      bad_request(param, "a string of '{}' may have at most {} bytes, not {}", param,
                  context.limits.max_stop_bytes, word.size());
    }
    for (const std::string& form : {word, " " + word}) {
      std::vector<int32_t> tokens = context.model.tokenizer.encode(form, false);
      if (!tokens.empty()) words.push_back(std::move(tokens));
    }
  }
  return words;
}

std::optional<TokenRules::Reasoning> read_reasoning_budget(Fields& fields, const RequestContext& context) {
  const auto budget = fields.integer("thinking_token_budget", -1, INT64_MAX);
  if (!budget || *budget < 0) return std::nullopt;
  return reasoning_budget(*budget, context);
}

TokenRules read_rules(Fields& fields, const RequestContext& context) {
  TokenRules rules;
  rules.bad_words = read_bad_words(fields, context);
  if (const Json* ids = fields.get("allowed_token_ids")) {
    const std::string param = fields.param("allowed_token_ids");
    rules.allowed = to_token_ids(*ids, param, context.vocab_size);
    if (rules.allowed.empty()) bad_request(param, "'{}' must not be empty", param);
  }
  rules.reasoning = read_reasoning_budget(fields, context);
  return rules;
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
  out.min_tokens_param = fields.param(names.min_tokens);
  out.params.min_new_tokens = fields.integer(names.min_tokens, 0, INT64_MAX).value_or(0);
  if (out.max_tokens && out.params.min_new_tokens > *out.max_tokens) {
    bad_request(out.min_tokens_param, "'{}' is {}, more than '{}', which is {}", out.min_tokens_param,
                out.params.min_new_tokens, out.max_tokens_param, *out.max_tokens);
  }
}

}  // namespace

TokenRules::Reasoning reasoning_budget(int64_t tokens, const RequestContext& context) {
  const text::Tokenizer& tokenizer = context.model.tokenizer;
  return {.budget = tokens,
          .open = tokenizer.encode(kReasoningOpen, false),
          .close = tokenizer.encode(kReasoningClose, false)};
}

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
  if (seed == -1) seed.reset();  // as other servers: a fresh one
  if (seed) out.params.seed = static_cast<uint64_t>(*seed);

  out.rules = read_rules(fields, context);
  out.text.stop = read_stop(fields, names.stop, context.limits);
  out.text.include_stop = fields.boolean(names.include_stop).value_or(false);
  out.text.skip_special_tokens = fields.boolean("skip_special_tokens").value_or(true);
  out.text.min_new_tokens = out.params.min_new_tokens;
  fields.refuse("spaces_between_special_tokens", "the tokenizer decides about spaces", {true});
  return out;
}

std::shared_ptr<const TokenRules> plan_rules(const SamplingRequest& sampling,
                                             std::span<const int32_t> prompt) {
  if (sampling.rules.empty()) return nullptr;
  TokenRules rules = sampling.rules;
  if (rules.reasoning) rules.reasoning->opened = leaves_open(prompt, *rules.reasoning);
  return std::make_shared<const TokenRules>(std::move(rules));
}

int64_t plan_length(int64_t prompt_tokens, const std::string& prompt_param, const SamplingRequest& sampling,
                    std::optional<int64_t> default_tokens, const RequestContext& context) {
  const int64_t most = context.model.max_context_len;
  const int64_t room = most - prompt_tokens;
  if (prompt_tokens == 0) bad_request(prompt_param, "the prompt has no tokens; at least one is needed");
  if (room < 1) {
    too_long(
        prompt_param, ContextOverflow{.prompt_tokens = prompt_tokens, .context_len = most},
        "this model's maximum context length is {} tokens, prompt and answer together, but the prompt has "
        "{} tokens; shorten it",
        most, prompt_tokens);
  }
  const auto demand = [&](int64_t tokens, const std::string& param, std::string_view more) {
    if (tokens <= room) return;
    too_long(
        param, ContextOverflow{prompt_tokens, tokens, most},
        "this model's maximum context length is {} tokens, prompt and answer together, but the prompt has "
        "{} tokens and '{}' asks for {}{}",
        most, prompt_tokens, param, tokens, more);
  };
  demand(sampling.params.min_new_tokens, sampling.min_tokens_param, "");
  if (sampling.max_tokens && context.clip_max_tokens) return std::min(*sampling.max_tokens, room);
  if (sampling.max_tokens) demand(*sampling.max_tokens, sampling.max_tokens_param, "; shorten one of them");
  if (sampling.max_tokens) return *sampling.max_tokens;
  const int64_t by_default = std::min(default_tokens.value_or(room), room);
  return std::max(by_default, sampling.params.min_new_tokens);
}

std::string read_cache_salt(Fields& fields, const RequestContext& context) {
  const auto salt = fields.string("cache_salt");
  if (salt && salt->empty()) bad_request("cache_salt", "'cache_salt' must not be an empty string");
  if (!salt) return context.holder;
  return fmt::format("{}/{}", context.holder, *salt);
}

void check_model(Fields& fields, const RequestContext& context) {
  if (const auto name = fields.string("model")) check_model_name(*name, context);
}

void check_model_name(const std::string& name, const RequestContext& context) {
  if (std::ranges::find(context.model_names, name) != context.model_names.end()) return;
  throw BadRequest(ErrorAnswer{.status = 404,
                               .message = fmt::format("the model {} is not served here; this server has '{}'",
                                                      quote(name), fmt::join(context.model_names, "', '")),
                               .param = "model"});
}

}  // namespace chorale::server
