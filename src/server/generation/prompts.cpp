#include "server/generation/prompts.h"

#include <utility>

#include <fmt/format.h>

#include "server/wire/bad_request.h"
#include "server/wire/fields.h"

namespace chorale::server {
namespace {

Prompt text_prompt(const std::string& text, std::string param, const RequestContext& context) {
  return {context.model.tokenizer.encode(text, true), text, true, std::move(param)};
}

Prompt id_prompt(const Json& value, std::string param, const RequestContext& context) {
  Prompt prompt;
  prompt.ids = to_token_ids(value, param, context.vocab_size);
  prompt.param = std::move(param);
  return prompt;
}

}  // namespace

Prompts read_prompts(const Json& value, const std::string& param, const RequestContext& context) {
  Prompts prompts;
  if (value.is_string()) {
    prompts.list.push_back(text_prompt(value.get_ref<const std::string&>(), param, context));
    return prompts;
  }
  if (!value.is_array() || value.empty()) {
    bad_request(param,
                "'{}' must be a string, a list of strings, a list of token ids, or a list of such lists",
                param);
  }
  if (value.front().is_number()) {
    prompts.list.push_back(id_prompt(value, param, context));
    return prompts;
  }
  const int64_t most = context.limits.max_sequences;
  if (std::ssize(value) > most)
    bad_request(param, "'{}' may have at most {} prompts, not {}", param, most, value.size());
  prompts.is_batch = true;
  for (size_t i = 0; i < value.size(); ++i) {
    std::string name = fmt::format("{}[{}]", param, i);
    if (value[i].is_string()) {
      prompts.list.push_back(text_prompt(value[i].get_ref<const std::string&>(), std::move(name), context));
    } else {
      prompts.list.push_back(id_prompt(value[i], std::move(name), context));
    }
  }
  return prompts;
}

}  // namespace chorale::server
