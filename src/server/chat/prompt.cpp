#include "server/chat/prompt.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "server/chat/messages.h"
#include "server/chat/reasoning_parser.h"
#include "server/generation/prompts.h"
#include "server/wire/bad_request.h"

namespace chorale::server {

namespace {

// "enable_thinking", also at the top of the request. Templates compare it with false: anything else that
// means no would leave it on.
void read_thinking(Fields& fields, Json& variables) {
  if (const auto top = fields.boolean("enable_thinking"); top && !variables.contains("enable_thinking")) {
    variables["enable_thinking"] = *top;
  }
  const auto found = variables.find("enable_thinking");
  if (found == variables.end()) return;
  if (found->is_null()) {
    variables.erase(found);
  } else if (!found->is_boolean()) {
    const std::string param = "chat_template_kwargs.enable_thinking";
    bad_request(param, "'{}' must be true or false, not {}", param, describe(*found));
  }
}

}  // namespace

void read_template_kwargs(Fields& fields, Json& variables) {
  if (const Json* extra = fields.get("chat_template_kwargs")) {
    if (!extra->is_object()) {
      bad_request("chat_template_kwargs", "'chat_template_kwargs' must be an object, not {}",
                  describe(*extra));
    }
    for (const auto& [name, value] : extra->items()) {
      if (name == "messages" || name == "add_generation_prompt" || name == "tools") {
        const std::string param = "chat_template_kwargs." + cut_text(name, 80);
        bad_request(param, "{} cannot be set here", quote(param));
      }
      append_member(variables, name, value);
    }
  }
  read_thinking(fields, variables);
}

Json template_variables(Fields& fields, const ToolRequest& tools) {
  const Json* messages = fields.get("messages");
  if (messages == nullptr) bad_request("messages", "'messages' is missing");
  const bool continues = fields.boolean("continue_final_message").value_or(false);
  const auto generation_prompt = fields.boolean("add_generation_prompt");
  if (continues && generation_prompt.value_or(false)) {
    bad_request("continue_final_message",
                "'continue_final_message' and 'add_generation_prompt' exclude each other");
  }
  Json variables = {{"messages", read_messages(*messages)},
                    {"add_generation_prompt", generation_prompt.value_or(!continues)}};
  if (tools.may_call()) variables["tools"] = tools.list;
  read_template_kwargs(fields, variables);
  // Of the efforts, Qwen3's templates know none and the rest.
  const auto effort = fields.string("reasoning_effort");
  if (effort == "none" && !variables.contains("enable_thinking")) variables["enable_thinking"] = false;
  return variables;
}

const text::ChatTemplate& chat_template(const RequestContext& context) {
  const text::ChatTemplate* chat = context.model.chat;
  if (chat == nullptr) bad_request("messages", "this model has no chat template; use /v1/completions");
  if (chat->error()) {  // which the log tells at the start: it names files of the server
    bad_request("messages", "the model's chat template cannot be used; use /v1/completions");
  }
  return *chat;
}

std::string render_template(const text::ChatTemplate& chat, const Json& variables) {
  auto rendered = chat.render(to_text(variables));
  if (auto* error = std::get_if<RequestError>(&rendered)) throw BadRequest(std::move(*error));
  return std::move(std::get<std::string>(rendered));
}

const ToolCallFormat* tool_call_format_of(const text::ChatTemplate& chat) {
  constexpr const char* kName = "a_tool_of_chorale";
  const Json tool = {{"type", "function"},
                     {"function",
                      {{"name", kName},
                       {"description", ""},
                       {"parameters", {{"type", "object"}, {"properties", Json::object()}}}}}};
  const auto rendered =
      chat.render(to_text({{"messages", Json::array({{{"role", "user"}, {"content", "Hi"}}})},
                           {"add_generation_prompt", true},
                           {"tools", Json::array({tool})}}));
  const auto* text = std::get_if<std::string>(&rendered);
  if (text == nullptr || text->find(kName) == std::string::npos) return nullptr;
  return &find_tool_call_format(*text);
}

std::string cut_after_last_message(std::string prompt, const Json& messages) {
  constexpr std::string_view kSpace = " \t\r\n";
  const Json& last = messages.back();
  if (last.value("role", "") != "assistant" || !last.contains("content") || !last["content"].is_string()) {
    bad_request("continue_final_message",
                "'continue_final_message' needs a last message of the assistant that has content");
  }
  std::string_view content = last["content"].get_ref<const std::string&>();
  content.remove_prefix(std::min(content.find_first_not_of(kSpace), content.size()));
  const std::string_view trimmed = content.substr(0, content.find_last_not_of(kSpace) + 1);
  const size_t at = trimmed.empty() ? std::string::npos : prompt.rfind(trimmed);
  if (at == std::string::npos) {
    bad_request("continue_final_message",
                "the model's chat template does not show the last message as it is, or it has no text");
  }
  // Templates may take white space from the end; where they do not, it is part of what is continued.
  const bool is_whole = prompt.compare(at, content.size(), content) == 0;
  prompt.resize(at + (is_whole ? content : trimmed).size());
  return prompt;
}

bool continues_reasoning(std::string_view prompt) {
  const size_t open = prompt.rfind(kThinkOpen);
  const size_t close = prompt.rfind(kThinkClose);
  return open != std::string_view::npos && (close == std::string_view::npos || open > close);
}

ReasoningStart reasoning_start(std::string_view prompt) {
  if (opens_reasoning(prompt)) return ReasoningStart::opened;
  return closes_reasoning(prompt) ? ReasoningStart::none : ReasoningStart::allowed;
}

ChatPrompt render_chat(Json variables, const ToolRequest& tools, bool continues,
                       const RequestContext& context) {
  const text::ChatTemplate& chat = chat_template(context);
  ChatPrompt prompt;
  check_cancelled(context);
  if (context.special_texts) context.special_texts->escape_strings(variables);
  if (tools.may_call() || has_tool_calls(variables["messages"]))
    prompt.call_format = tool_call_format_of(chat);
  if (tools.may_call() && prompt.call_format == nullptr) {
    bad_request("tools", "the model's chat template does not show tools to the model");
  }
  if (prompt.call_format != nullptr && prompt.call_format->arguments_are_objects) {
    parse_tool_arguments(variables["messages"]);
  }
  prompt.text = render_template(chat, variables);
  if (continues) prompt.text = cut_after_last_message(std::move(prompt.text), variables["messages"]);
  return prompt;
}

}  // namespace chorale::server
