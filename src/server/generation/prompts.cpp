#include "server/generation/prompts.h"

#include <utility>

#include <fmt/format.h>

#include "server/wire/bad_request.h"
#include "server/wire/fields.h"

namespace chorale::server {
namespace {

Prompt text_prompt(std::string_view text, std::string param, const RequestContext& context) {
  std::vector<int32_t> ids = encode_prompt(escape_text(text, context), true, param, context);
  return {std::move(ids), text, true, std::move(param)};
}

Prompt id_prompt(const Json& value, std::string param, const RequestContext& context) {
  Prompt prompt;
  prompt.ids = to_token_ids(value, param, context.vocab_size);
  prompt.param = std::move(param);
  return prompt;
}

// Of a text in which special tokens are control tokens.
std::vector<int32_t> encode_part(std::string_view text, bool add_special_tokens, int64_t max_tokens,
                                 const std::string& param, const RequestContext& context) {
  text::BoundedEncoding encoding = context.model.tokenizer.encode_bounded(
      text, add_special_tokens, {.max_tokens = max_tokens, .is_cancelled = context.is_cancelled});
  switch (encoding.end) {
    case text::EncodeEnd::complete:
      break;
    case text::EncodeEnd::cancelled:
      check_cancelled(context);
      break;
    case text::EncodeEnd::too_many:
      too_long(param, std::nullopt,
               "this model's maximum context length is {} tokens, prompt and answer together, but the prompt "
               "has more; shorten it",
               context.model.max_context_len);
    case text::EncodeEnd::unbroken:
      bad_request(param, "the text of '{}' goes on for more than 1 MiB without a break between words", param);
  }
  return std::move(encoding.ids);
}

}  // namespace

void check_cancelled(const RequestContext& context) {
  if (context.is_cancelled && context.is_cancelled()) {
    throw BadRequest(ErrorAnswer{.status = 503, .message = "the server is stopping"});
  }
}

std::string escape_text(std::string_view text, const RequestContext& context) {
  return context.special_texts ? context.special_texts->escape(text) : std::string(text);
}

std::vector<int32_t> encode_text(std::string_view text, bool add_special_tokens, int64_t max_tokens,
                                 const std::string& param, const RequestContext& context) {
  if (!context.special_texts) return encode_part(text, add_special_tokens, max_tokens, param, context);
  std::vector<int32_t> ids;
  for (const SpecialTexts::Part& part : context.special_texts->split(text)) {
    const int64_t left = max_tokens - std::ssize(ids);
    const std::vector<int32_t> more =
        part.is_plain ? context.model.tokenizer.encode_plain(part.text)
                      : encode_part(part.text, add_special_tokens && ids.empty(), left, param, context);
    ids.insert(ids.end(), more.begin(), more.end());
  }
  return ids;
}

std::vector<int32_t> encode_prompt(std::string_view text, bool add_special_tokens, const std::string& param,
                                   const RequestContext& context) {
  return encode_text(text, add_special_tokens, context.model.max_context_len, param, context);
}

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
