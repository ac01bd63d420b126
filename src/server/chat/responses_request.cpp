#include "server/chat/responses_request.h"

#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "server/chat/prompt.h"
#include "server/wire/bad_request.h"

namespace chorale::server {
namespace {

std::string needed(Fields& fields, std::string_view name) {
  auto text = fields.string(name);
  if (!text) bad_request(fields.param(name), "'{}' is missing", fields.param(name));
  return std::move(*text);
}

// A string, or a list of parts that are texts.
std::string read_parts(const Json& value, const std::string& path) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array())
    bad_request(path, "'{}' must be a string or a list of content parts, not {}", path, describe(value));
  std::string all;
  for (size_t i = 0; i < value.size(); ++i) {
    Fields part(value[i], fmt::format("{}[{}]", path, i));
    const std::string type = part.string("type").value_or("");
    const bool is_text = type == "input_text" || type == "output_text" || type == "text" ||
                         type == "reasoning_text" || type == "summary_text";
    if (!is_text && type != "refusal") {
      bad_request(part.param("type"),
                  "content parts of type {} are not supported here: this model reads text", quote(type));
    }
    if (i > 0) all += '\n';
    all += needed(part, is_text ? "text" : "refusal");
    part.accept({"annotations", "logprobs", "prompt_cache_breakpoint"});
    part.finish();
  }
  return all;
}

// Puts items together: reasoning, text and calls of one turn of the assistant are one message.
class ItemReader {
 public:
  explicit ItemReader(Json& messages) : messages_(messages) {}

  void read(const Json& value, const std::string& path) {
    Fields item(value, path);
    const std::string type = item.string("type").value_or(value.contains("role") ? "message" : "");
    item.accept({"id", "status", "phase", "caller", "namespace", "created_by"});
    if (type == "message") {
      message(item);
    } else if (type == "reasoning") {
      reasoning(item);
    } else if (type == "function_call") {
      call(item);
    } else if (type == "function_call_output") {
      result(item);
    } else {
      bad_request(item.param("type"), "items of type {} are not supported here", quote(type));
    }
    item.finish();
  }

 private:
  void message(Fields& item) {
    std::string role = item.string("role").value_or("");
    if (role == "developer") role = "system";
    if (role != "user" && role != "system" && role != "assistant") {
      bad_request(item.param("role"), "'{}' must be user, assistant, system or developer, not {}",
                  item.param("role"), quote(role));
    }
    const Json* content = item.get("content");
    if (content == nullptr) bad_request(item.param("content"), "'{}' is missing", item.param("content"));
    std::string text = read_parts(*content, item.param("content"));
    if (role != "assistant") return add({{"role", role}, {"content", std::move(text)}});
    Json& open = turn(has_text_ || has_calls_);
    open["content"] = std::move(text);
    has_text_ = true;
  }

  void reasoning(Fields& item) {
    std::string text;
    for (const char* name : {"content", "summary"}) {
      const Json* parts = item.get(name);
      if (parts != nullptr && text.empty()) text = read_parts(*parts, item.param(name));
    }
    item.accept({"encrypted_content"});
    if (text.empty()) return;
    turn(true)["reasoning_content"] = std::move(text);
  }

  void call(Fields& item) {
    const Json call = {
        {"type", "function"},
        {"function", {{"name", needed(item, "name")}, {"arguments", needed(item, "arguments")}}},
        {"id", needed(item, "call_id")}};
    turn(false)["tool_calls"].push_back(call);
    has_calls_ = true;
  }

  void result(Fields& item) {
    const Json* output = item.get("output");
    if (output == nullptr) bad_request(item.param("output"), "'{}' is missing", item.param("output"));
    add({{"role", "tool"},
         {"content", read_parts(*output, item.param("output"))},
         {"tool_call_id", needed(item, "call_id")}});
  }

  void add(Json message) {
    messages_.push_back(std::move(message));
    is_open_ = false;
  }

  // The message of the assistant that the next item belongs to.
  Json& turn(bool is_new) {
    if (!is_open_ || is_new) {
      messages_.push_back({{"role", "assistant"}, {"content", ""}});
      is_open_ = true;
      has_text_ = has_calls_ = false;
    }
    return messages_.back();
  }

  Json& messages_;
  bool is_open_ = false;
  bool has_text_ = false;
  bool has_calls_ = false;
};

Json read_input(Fields& fields) {
  const Json* input = fields.get("input");
  if (input == nullptr) bad_request("input", "'input' is missing");
  if (input->is_string()) return Json::array({{{"type", "message"}, {"role", "user"}, {"content", *input}}});
  if (!input->is_array() || input->empty())
    bad_request("input", "'input' must be a string or a list of items, not {}", describe(*input));
  return *input;
}

// The tool as the chat schema has it, which chat templates show to models.
Json read_tool(const Json& value, const std::string& path) {
  Fields tool(value, path);
  const std::string type = tool.string("type").value_or("");
  if (type != "function") {
    bad_request(tool.param("type"), "tools of type {} are not supported here: only functions are",
                quote(type));
  }
  const std::string name = needed(tool, "name");
  check_tool_name(name, tool.param("name"));
  Json function = {{"name", name}};
  if (const auto description = tool.string("description")) function["description"] = *description;
  if (const Json* parameters = tool.get("parameters")) function["parameters"] = *parameters;
  if (tool.boolean("strict").value_or(false)) function["strict"] = true;
  tool.accept({"defer_loading", "async", "allowed_callers", "output_schema"});
  tool.finish();
  return {{"type", "function"}, {"function", std::move(function)}};
}

ToolRequest read_responses_tools(Fields& fields) {
  Json out = Json::object();
  if (const Json* tools = fields.get("tools")) {
    if (!tools->is_array()) bad_request("tools", "'tools' must be a list, not {}", describe(*tools));
    Json list = Json::array();
    for (size_t i = 0; i < tools->size(); ++i)
      list.push_back(read_tool((*tools)[i], fmt::format("tools[{}]", i)));
    out["tools"] = std::move(list);
  }
  if (const Json* choice = fields.get("tool_choice")) {
    out["tool_choice"] = *choice;
    if (choice->is_object() && choice->value("type", Json()) == "function")
      out["tool_choice"] = {{"type", "function"}, {"function", {{"name", choice->value("name", Json(""))}}}};
  }
  if (const auto parallel = fields.boolean("parallel_tool_calls")) out["parallel_tool_calls"] = *parallel;
  Fields chat(out, "");
  return read_tools(chat);
}

void replace(std::string_view from, std::string_view to, std::string& text) {
  if (const size_t at = text.find(from); at != std::string::npos) text.replace(at, from.size(), to);
}

// "text.format" is the chat schema's "response_format", flattened.
std::optional<RequestedFormat> read_text(Fields& fields) {
  const Json* text = fields.get("text");
  if (text == nullptr) return std::nullopt;
  Fields inner(*text, "text");
  inner.accept({"verbosity"});
  const Json* format = inner.get("format");
  inner.finish();
  if (format == nullptr) return std::nullopt;
  if (!format->is_object())
    bad_request("text.format", "'text.format' must be an object, not {}", describe(*format));
  Json chat = {{"type", format->value("type", Json())}};
  if (chat["type"] == "json_schema") {
    chat["json_schema"] = *format;
    chat["json_schema"].erase("type");
  }
  const Json body = {{"response_format", std::move(chat)}};
  try {
    Fields named(body, "");
    auto out = read_output_format(named);
    if (out) {
      replace("response_format.json_schema", "text.format", out->param);
      for (StrictSchema& strict : out->strict)
        replace("response_format.json_schema", "text.format", strict.param);
    }
    return out;
  } catch (const BadRequest& bad) {
    ErrorAnswer answer = bad.answer();
    for (std::string* part : {&answer.param, &answer.message}) {
      replace("response_format.json_schema", "text.format", *part);
      replace("response_format", "text.format", *part);
    }
    throw BadRequest(std::move(answer));
  }
}

Json read_previous(Fields& fields, const RequestContext& context) {
  const auto id = fields.string("previous_response_id");
  if (!id) return Json::array();
  const ResponseStore& store = *context.responses;
  const auto previous = store.find(*id, context.response_holder);
  const char* why = !store.keeps_any() ? ": this server keeps none (--max-stored-responses)" : "";
  if (!previous) {
    throw BadRequest(ErrorAnswer{.status = 404,
                                 .message = fmt::format("there is no response {}{}", quote(*id), why),
                                 .param = "previous_response_id",
                                 .code = "previous_response_not_found"});
  }
  if (previous->messages.is_null())
    bad_request("previous_response_id", "the response {} is not complete", quote(*id));
  return previous->messages;
}

// Fields that are told again as they were given, or as what holds without them.
Json echo_of(Fields& fields, const ToolRequest& tools) {
  const auto given = [&](const char* name, Json otherwise) {
    const Json* value = fields.get(name);
    return value == nullptr ? std::move(otherwise) : *value;
  };
  Json text = given("text", Json::object());
  if (!text.contains("format")) text["format"] = {{"type", "text"}};
  return {{"instructions", given("instructions", nullptr)},
          {"max_output_tokens", given("max_output_tokens", nullptr)},
          {"metadata", given("metadata", Json::object())},
          {"parallel_tool_calls", tools.parallel},
          {"previous_response_id", given("previous_response_id", nullptr)},
          {"reasoning", given("reasoning", {{"effort", nullptr}, {"summary", nullptr}})},
          {"text", std::move(text)},
          {"tool_choice", given("tool_choice", "auto")},
          {"tools", given("tools", Json::array())},
          {"truncation", "disabled"},
          {"user", given("user", nullptr)}};
}

}  // namespace

ResponsesConversation read_responses_conversation(Fields& fields, const RequestContext& context) {
  ResponsesConversation out;
  out.tools = read_responses_tools(fields);
  out.messages = read_previous(fields, context);
  out.input_items = read_input(fields);
  ItemReader reader(out.messages);
  for (size_t i = 0; i < out.input_items.size(); ++i)
    reader.read(out.input_items[i], fmt::format("input[{}]", i));
  if (out.messages.empty()) bad_request("input", "'input' has no message");

  Json messages = Json::array();
  if (const auto instructions = fields.string("instructions"); instructions && !instructions->empty())
    messages.push_back({{"role", "system"}, {"content", *instructions}});
  for (const Json& message : out.messages) messages.push_back(message);
  out.variables = {{"messages", std::move(messages)}, {"add_generation_prompt", true}};
  if (out.tools.may_call()) out.variables["tools"] = out.tools.list;
  read_template_kwargs(fields, out.variables);
  if (const Json* value = fields.get("reasoning")) {
    Fields reasoning(*value, "reasoning");
    if (reasoning.string("effort") == "none") out.variables["enable_thinking"] = false;
    reasoning.accept({"summary", "generate_summary", "context", "mode"});
    reasoning.finish();
  }
  out.format = read_text(fields);
  if (!out.format) out.format = read_output_format(fields);
  out.echo = echo_of(fields, out.tools);
  return out;
}

void append_output(const Json& items, Json& messages) {
  ItemReader reader(messages);
  for (size_t i = 0; i < items.size(); ++i) reader.read(items[i], "output");
}

}  // namespace chorale::server
