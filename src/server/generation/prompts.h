// Prompts as the completing endpoints take them: one or many, as text or as token ids.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/generation/request_context.h"
#include "server/wire/json_body.h"

namespace chorale::server {

struct Prompt {
  std::vector<int32_t> ids;
  std::string text;  // as given; empty when it was given as ids
  bool is_text = false;
  std::string param;  // the field it came from: "prompt", "prompt[3]"
};

struct Prompts {
  std::vector<Prompt> list;
  bool is_batch = false;  // a list of prompts, be it of one
};

// A string, a list of strings, a list of token ids, or a list of such lists; texts are tokenized. Throws
// BadRequest, also for more prompts than a request may have.
Prompts read_prompts(const Json& value, const std::string& param, const RequestContext& context);

}  // namespace chorale::server
