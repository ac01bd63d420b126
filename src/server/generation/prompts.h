// Prompts as the completing endpoints take them: one or many, as text or as token ids.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "server/generation/request_context.h"
#include "server/wire/json_body.h"

namespace chorale::server {

struct Prompt {
  std::vector<int32_t> ids;
  std::string_view text;  // as given, in the request's body; empty when it was given as ids
  bool is_text = false;
  std::string param;  // the field it came from: "prompt", "prompt[3]"
};

struct Prompts {
  std::vector<Prompt> list;
  bool is_batch = false;  // a list of prompts, be it of one
};

// Throws BadRequest when nobody waits for the request any more.
void check_cancelled(const RequestContext& context);

// A client's text as encode_text() takes it: with marks where special tokens are not to be control tokens.
std::string escape_text(std::string_view text, const RequestContext& context);

// The ids of an escaped text with at most max_tokens, tokenized no further than that takes. Throws BadRequest
// for one that has more, and when nobody waits for the request any more.
std::vector<int32_t> encode_text(std::string_view text, bool add_special_tokens, int64_t max_tokens,
                                 const std::string& param, const RequestContext& context);
// The same of a prompt, which must fit the context.
std::vector<int32_t> encode_prompt(std::string_view text, bool add_special_tokens, const std::string& param,
                                   const RequestContext& context);

// A string, a list of strings, a list of token ids, or a list of such lists; texts are tokenized. Throws
// BadRequest, also for more prompts than a request may have. The prompts end before the value does.
Prompts read_prompts(const Json& value, const std::string& param, const RequestContext& context);

}  // namespace chorale::server
