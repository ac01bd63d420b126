#include "server/endpoints/tokenize.h"

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "server/chat/prompt.h"
#include "server/generation/prompts.h"
#include "server/generation/sampling_fields.h"
#include "server/wire/bad_request.h"
#include "server/wire/fields.h"

namespace chorale::server {
namespace {

Json token_strings(const std::vector<int32_t>& ids, const text::Tokenizer& tokenizer) {
  Json list = Json::array();
  for (const int32_t id : ids) list.push_back(tokenizer.token_bytes(id));
  return list;
}

struct TextInput {
  std::vector<std::string> texts;
  bool is_list = false;
  bool special_tokens = true;  // by default; a chat template writes its own
};

TextInput read_texts(Fields& fields, const RequestContext& context) {
  TextInput input;
  if (fields.get("messages") != nullptr) {
    const ToolRequest tools = read_tools(fields);
    const bool continues = fields.boolean("continue_final_message").value_or(false);
    input.texts.push_back(render_chat(template_variables(fields, tools), tools, continues, context).text);
    input.special_tokens = false;
    return input;
  }
  for (const std::string_view name : {"prompt", "text", "content"}) {
    const Json* value = fields.get(name);
    if (value == nullptr) continue;
    if (!input.texts.empty()) bad_request(fields.param(name), "give one of 'prompt', 'text' and 'content'");
    input.is_list = value->is_array();
    if (!input.is_list) {
      input.texts.push_back(escape_text(to_string(*value, fields.param(name)), context));
      continue;
    }
    if (value->empty() || std::ssize(*value) > context.limits.max_sequences) {
      bad_request(fields.param(name), "'{}' must have 1 to {} texts, not {}", name,
                  context.limits.max_sequences, value->size());
    }
    for (const Json& text : *value) {
      input.texts.push_back(escape_text(to_string(text, fields.param(name)), context));
    }
  }
  if (input.texts.empty()) bad_request("prompt", "'prompt' is missing");
  return input;
}

}  // namespace

Json tokenize(const Json& body, const RequestContext& context) {
  Fields fields(body, "");
  check_model(fields, context);
  const TextInput input = read_texts(fields, context);
  const bool special = fields.boolean("add_special_tokens").value_or(input.special_tokens);
  const bool strings = fields.boolean("return_token_strs").value_or(false);
  fields.accept({"add_special", "parse_special"});
  fields.refuse("with_pieces", "use return_token_strs", {false});
  fields.finish();

  const text::Tokenizer& tokenizer = context.model.tokenizer;
  Json tokens = Json::array();
  Json counts = Json::array();
  Json all_strings = Json::array();
  for (const std::string& text : input.texts) {
    const std::vector<int32_t> ids = encode_text(text, special, INT64_MAX, "prompt", context);
    tokens.push_back(ids);
    counts.push_back(ids.size());
    if (strings) all_strings.push_back(token_strings(ids, tokenizer));
  }
  const auto all = [&](Json& list) { return input.is_list ? std::move(list) : std::move(list.front()); };
  Json answer = {
      {"tokens", all(tokens)}, {"count", all(counts)}, {"max_model_len", context.model.max_context_len}};
  if (strings) answer["token_strs"] = all(all_strings);
  return answer;
}

Json detokenize(const Json& body, const RequestContext& context) {
  Fields fields(body, "");
  check_model(fields, context);
  const Json* tokens = fields.get("tokens");
  if (tokens == nullptr || !tokens->is_array()) {
    bad_request("tokens", "'tokens' must be a list of token ids, or a list of such lists");
  }
  const bool skip = fields.boolean("skip_special_tokens").value_or(false);
  fields.finish();

  const text::Tokenizer& tokenizer = context.model.tokenizer;
  Json text;
  if (!tokens->empty() && tokens->front().is_array()) {
    if (std::ssize(*tokens) > context.limits.max_sequences) {
      bad_request("tokens", "'tokens' may have at most {} lists, not {}", context.limits.max_sequences,
                  tokens->size());
    }
    text = Json::array();
    for (size_t i = 0; i < tokens->size(); ++i) {
      const auto ids = to_token_ids((*tokens)[i], fmt::format("tokens[{}]", i), context.vocab_size);
      text.push_back(tokenizer.decode(ids, skip));
    }
  } else {
    text = tokenizer.decode(to_token_ids(*tokens, "tokens", context.vocab_size), skip);
  }
  return {{"text", text}, {"prompt", text}, {"content", text}};
}

}  // namespace chorale::server
