// The part of a request that all generating endpoints share: sampling, lengths, stop conditions.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "engine/request.h"
#include "server/generation/request_context.h"
#include "server/generation/text_generation.h"
#include "server/generation/token_rules.h"
#include "server/wire/fields.h"

namespace chorale::server {

struct SamplingRequest {
  engine::SamplingParams params;  // max_new_tokens is set by plan_length()
  TextOptions text;
  TokenRules rules;
  std::optional<int64_t> max_tokens;
  std::string max_tokens_param;  // the name of the field that set it
  std::string min_tokens_param;
};

// The names of the fields that are called differently in the two schemas.
struct SamplingNames {
  std::string_view max_tokens;
  std::string_view max_tokens_preferred;  // wins over max_tokens; empty: none
  std::string_view min_tokens;
  std::string_view include_stop;
  std::string_view seed_alias;  // beside "seed"; empty: none
  std::string_view stop = "stop";
};
inline constexpr SamplingNames kOpenAiSampling{"max_tokens", "", "min_tokens", "include_stop_str_in_output",
                                               ""};
inline constexpr SamplingNames kOpenAiChatSampling{"max_tokens", "max_completion_tokens", "min_tokens",
                                                   "include_stop_str_in_output", ""};
inline constexpr SamplingNames kNativeSampling{"max_new_tokens", "", "min_new_tokens", "no_stop_trim",
                                               "sampling_seed"};

// Reads the fields, with the model's generation defaults where they are absent. Throws BadRequest.
SamplingRequest read_sampling(Fields& fields, const SamplingNames& names, const RequestContext& context);

// Of so many tokens of reasoning.
TokenRules::Reasoning reasoning_budget(int64_t tokens, const RequestContext& context);

// The rules about the output's tokens after this prompt; nullptr: there are none.
std::shared_ptr<const TokenRules> plan_rules(const SamplingRequest& sampling,
                                             std::span<const int32_t> prompt);

// The engine's max_new_tokens for a prompt of this length: what was asked for, else the default (nullopt: all
// that is left of the context). Throws BadRequest, which tells both lengths, when it does not fit; where the
// server clips max_tokens, what was asked for becomes what is left.
int64_t plan_length(int64_t prompt_tokens, const std::string& prompt_param, const SamplingRequest& sampling,
                    std::optional<int64_t> default_tokens, const RequestContext& context);

// "cache_salt", by which a request shares the prefix cache with those of the same alone, and of the same
// holder. Throws BadRequest.
std::string read_cache_salt(Fields& fields, const RequestContext& context);

// "model": absent or the served name, else a 404.
void check_model(Fields& fields, const RequestContext& context);
void check_model_name(const std::string& name, const RequestContext& context);

}  // namespace chorale::server
