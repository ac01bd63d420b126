#include "server/chat/messages.h"

#include <algorithm>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "server/wire/bad_request.h"
#include "server/wire/fields.h"

namespace chorale::server {
namespace {

std::string read_part(const Json& value, const std::string& path, const std::string& role) {
  Fields part(value, path);
  const std::string type = part.string("type").value_or("");
  if (type == "refusal" && role == "assistant") {  // of an earlier answer
    auto refusal = part.string("refusal");
    if (!refusal) bad_request(part.param("refusal"), "'{}' is missing", part.param("refusal"));
    part.finish();
    return std::move(*refusal);
  }
  if (type != "text") {
    bad_request(part.param("type"), "content parts of type {} are not supported: this model reads text only",
                quote(type));
  }
  auto text = part.string("text");
  if (!text) bad_request(part.param("text"), "'{}' is missing", part.param("text"));
  part.accept({"cache_control"});
  part.finish();
  return std::move(*text);
}

// A string, or a list of text parts.
std::string read_content(const Json& content, const std::string& path, const std::string& role) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) {
    bad_request(path, "'{}' must be a string or a list of text parts, not {}", path, describe(content));
  }
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) {
    if (i > 0) text += '\n';
    text += read_part(content[i], fmt::format("{}[{}]", path, i), role);
  }
  return text;
}

// Calls that an earlier answer made: [{"id", "type": "function", "function": {"name", "arguments"}}].
Json read_tool_calls(const Json& value, const std::string& path) {
  if (!value.is_array()) bad_request(path, "'{}' must be a list, not {}", path, describe(value));
  Json calls = Json::array();
  for (size_t i = 0; i < value.size(); ++i) {
    Fields call(value[i], fmt::format("{}[{}]", path, i));
    call.accept({"index"});
    call.refuse("type", "only \"function\" is", {"function"});
    const auto id = call.string("id");
    const Json* inner = call.get("function");
    call.finish();
    if (inner == nullptr) bad_request(call.param("function"), "'{}' is missing", call.param("function"));
    Fields function(*inner, call.param("function"));
    const auto name = function.string("name");
    if (!name) bad_request(function.param("name"), "'{}' is missing", function.param("name"));
    const Json* arguments = function.get("arguments");
    if (arguments != nullptr && !arguments->is_string() && !arguments->is_object()) {
      const std::string param = function.param("arguments");
      bad_request(param, "'{}' must be a string or an object, not {}", param, describe(*arguments));
    }
    function.finish();
    Json out = {{"type", "function"},
                {"function", {{"name", *name}, {"arguments", arguments == nullptr ? Json("") : *arguments}}}};
    if (id) out["id"] = *id;
    calls.push_back(std::move(out));
  }
  return calls;
}

Json parse_arguments(const std::string& text) {
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) return Json::object();
  try {
    return parse_json_body(text);
  } catch (const BadRequest&) {
    return {{"arguments", text}};
  }
}

Json read_message(const Json& value, const std::string& path) {
  Fields fields(value, path);
  std::string role = fields.string("role").value_or("");
  if (role == "developer") role = "system";
  if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
    bad_request(fields.param("role"), "'{}' must be system, developer, user, assistant or tool, not {}",
                fields.param("role"), quote(role));
  }
  Json message = {{"role", role}};
  const Json* calls = role == "assistant" ? fields.get("tool_calls") : nullptr;
  const Json* content = fields.get("content");
  if (content == nullptr && role != "assistant" && !(role == "tool" && value.contains("content"))) {
    bad_request(fields.param("content"), "'{}' is missing", fields.param("content"));
  }
  message["content"] = content == nullptr ? "" : read_content(*content, fields.param("content"), role);
  if (calls != nullptr && !calls->empty())
    message["tool_calls"] = read_tool_calls(*calls, fields.param("tool_calls"));
  for (const char* name : {"name", "tool_call_id", "reasoning_content"}) {
    if (const auto text = fields.string(name)) message[name] = *text;
  }
  if (const auto reasoning = fields.string("reasoning");
      reasoning && !message.contains("reasoning_content")) {
    message["reasoning_content"] = *reasoning;
  }
  fields.accept({"refusal", "annotations"});  // of earlier answers; they are not part of the conversation
  fields.refuse("function_call", "use tool_calls");
  fields.refuse("audio", "this model reads text only");
  fields.finish();
  return message;
}

}  // namespace

Json read_messages(const Json& value) {
  if (!value.is_array()) bad_request("messages", "'messages' must be a list, not {}", describe(value));
  if (value.empty()) bad_request("messages", "'messages' must have at least one message");
  Json messages = Json::array();
  for (size_t i = 0; i < value.size(); ++i) {
    messages.push_back(read_message(value[i], fmt::format("messages[{}]", i)));
  }
  return messages;
}

bool has_tool_calls(const Json& messages) {
  return std::any_of(messages.begin(), messages.end(),
                     [](const Json& message) { return message.contains("tool_calls"); });
}

void parse_tool_arguments(Json& messages) {
  for (Json& message : messages) {
    if (!message.contains("tool_calls")) continue;
    for (Json& call : message["tool_calls"]) {
      Json& arguments = call["function"]["arguments"];
      if (arguments.is_string()) arguments = parse_arguments(arguments.get_ref<const std::string&>());
    }
  }
}

}  // namespace chorale::server
