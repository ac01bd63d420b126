#include "server/chat/anthropic_request.h"

#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "server/chat/prompt.h"
#include "server/wire/bad_request.h"

namespace chorale::server {
namespace {

// Of a client that tells its version there, anew with each request: no prefix would ever be found again.
constexpr std::string_view kBillingHeader = "x-anthropic-billing-header";

void append_text(std::string_view more, std::string& text) {
  if (!text.empty()) text += '\n';
  text += more;
}

// The text of a block of that type.
std::string block_text(Fields& block) {
  auto text = block.string("text");
  if (!text) bad_request(block.param("text"), "'{}' is missing", block.param("text"));
  block.accept({"cache_control", "citations"});
  block.finish();
  return std::move(*text);
}

[[noreturn]] void refuse_block(Fields& block, const std::string& type) {
  bad_request(block.param("type"), "content blocks of type {} are not supported here: this model reads text",
              quote(type));
}

// A string, or a list of text blocks.
std::string read_texts(const Json& value, const std::string& path, bool is_system) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array())
    bad_request(path, "'{}' must be a string or a list of content blocks, not {}", path, describe(value));
  std::string all;
  for (size_t i = 0; i < value.size(); ++i) {
    Fields block(value[i], fmt::format("{}[{}]", path, i));
    const std::string type = block.string("type").value_or("");
    if (type != "text") refuse_block(block, type);
    const std::string text = block_text(block);
    if (!is_system || !text.starts_with(kBillingHeader)) append_text(text, all);
  }
  return all;
}

Json read_tool_use(Fields& block) {
  const auto id = block.string("id");
  const auto name = block.string("name");
  const Json* input = block.get("input");
  if (!id) bad_request(block.param("id"), "'{}' is missing", block.param("id"));
  if (!name) bad_request(block.param("name"), "'{}' is missing", block.param("name"));
  if (input != nullptr && !input->is_object())
    bad_request(block.param("input"), "'{}' must be an object, not {}", block.param("input"),
                describe(*input));
  block.accept({"cache_control", "caller"});
  block.finish();
  const std::string arguments = input == nullptr ? "{}" : to_text(*input);
  return {{"type", "function"}, {"function", {{"name", *name}, {"arguments", arguments}}}, {"id", *id}};
}

Json read_tool_result(Fields& block) {
  const auto id = block.string("tool_use_id");
  if (!id) bad_request(block.param("tool_use_id"), "'{}' is missing", block.param("tool_use_id"));
  const Json* content = block.get("content");
  block.accept({"cache_control"});
  block.boolean("is_error");  // the content says it
  block.finish();
  const std::string text = content == nullptr ? "" : read_texts(*content, block.param("content"), false);
  return {{"role", "tool"}, {"content", text}, {"tool_call_id", *id}};
}

// Results of tools are messages of their own, in their order.
void read_user(const Json& content, const std::string& path, Json& out) {
  std::string text;
  bool has_text = content.empty();
  const auto end_message = [&] {
    if (has_text) out.push_back({{"role", "user"}, {"content", std::exchange(text, {})}});
    has_text = false;
  };
  for (size_t i = 0; i < content.size(); ++i) {
    Fields block(content[i], fmt::format("{}[{}]", path, i));
    const std::string type = block.string("type").value_or("");
    if (type == "text") {
      append_text(block_text(block), text);
      has_text = true;
    } else if (type == "tool_result") {
      end_message();
      out.push_back(read_tool_result(block));
    } else {
      refuse_block(block, type);
    }
  }
  end_message();
}

Json read_assistant(const Json& content, const std::string& path) {
  std::string text;
  std::string thinking;
  Json calls = Json::array();
  for (size_t i = 0; i < content.size(); ++i) {
    Fields block(content[i], fmt::format("{}[{}]", path, i));
    const std::string type = block.string("type").value_or("");
    if (type == "text") {
      append_text(block_text(block), text);
    } else if (type == "thinking") {
      append_text(block.string("thinking").value_or(""), thinking);
      block.accept({"signature", "cache_control"});
      block.finish();
    } else if (type == "tool_use") {
      calls.push_back(read_tool_use(block));
    } else if (type != "redacted_thinking") {  // which only its server can read
      refuse_block(block, type);
    }
  }
  Json message = {{"role", "assistant"}, {"content", text}};
  if (!calls.empty()) message["tool_calls"] = std::move(calls);
  if (!thinking.empty()) message["reasoning_content"] = thinking;
  return message;
}

void read_message(const Json& value, const std::string& path, Json& out) {
  Fields fields(value, path);
  const std::string role = fields.string("role").value_or("");
  if (role != "user" && role != "assistant" && role != "system")
    bad_request(fields.param("role"), "'{}' must be user or assistant, not {}", fields.param("role"),
                quote(role));
  const Json* content = fields.get("content");
  const std::string param = fields.param("content");
  if (content == nullptr) bad_request(param, "'{}' is missing", param);
  fields.finish();
  if (content->is_string() || role == "system") {
    out.push_back({{"role", role}, {"content", read_texts(*content, param, false)}});
    return;
  }
  if (!content->is_array())
    bad_request(param, "'{}' must be a string or a list of content blocks, not {}", param,
                describe(*content));
  if (role == "user") return read_user(*content, param, out);
  out.push_back(read_assistant(*content, param));
}

Json read_conversation(Fields& fields) {
  Json out = Json::array();
  if (const Json* system = fields.get("system")) {
    const std::string text = read_texts(*system, fields.param("system"), true);
    if (!text.empty()) out.push_back({{"role", "system"}, {"content", text}});
  }
  const Json* messages = fields.get("messages");
  if (messages == nullptr) bad_request("messages", "'messages' is missing");
  if (!messages->is_array())
    bad_request("messages", "'messages' must be a list, not {}", describe(*messages));
  if (messages->empty()) bad_request("messages", "'messages' must have at least one message");
  for (size_t i = 0; i < messages->size(); ++i)
    read_message((*messages)[i], fmt::format("messages[{}]", i), out);
  return out;
}

// The tool as OpenAI's schema has it, which chat templates show to models.
Json read_tool(const Json& value, const std::string& path) {
  Fields tool(value, path);
  const std::string type = tool.string("type").value_or("custom");
  if (type != "custom") {
    bad_request(tool.param("type"), "tools of type {} are not supported here: this server runs no tools",
                quote(type));
  }
  const auto name = tool.string("name");
  if (!name) bad_request(tool.param("name"), "'{}' is missing", tool.param("name"));
  check_tool_name(*name, tool.param("name"));
  Json function = {{"name", *name}};
  if (const auto description = tool.string("description")) function["description"] = *description;
  const Json* schema = tool.get("input_schema");
  const std::string param = tool.param("input_schema");
  if (schema == nullptr) bad_request(param, "'{}' is missing", param);
  if (!schema->is_object())
    bad_request(param, "'{}' must be an object, a JSON schema, not {}", param, describe(*schema));
  function["parameters"] = *schema;
  if (const auto strict = tool.boolean("strict")) function["strict"] = *strict;
  tool.accept(
      {"cache_control", "defer_loading", "allowed_callers", "eager_input_streaming", "input_examples"});
  tool.finish();
  return {{"type", "function"}, {"function", std::move(function)}};
}

void read_tool_choice(const Json& value, Json& out) {
  Fields choice(value, "tool_choice");
  const std::string type = choice.string("type").value_or("");
  if (type == "auto" || type == "none") {
    out["tool_choice"] = type;
  } else if (type == "any") {
    out["tool_choice"] = "required";
  } else if (type == "tool") {
    const auto name = choice.string("name");
    if (!name) bad_request("tool_choice.name", "'tool_choice.name' is missing");
    out["tool_choice"] = {{"type", "function"}, {"function", {{"name", *name}}}};
  } else {
    bad_request("tool_choice.type", "'tool_choice.type' must be auto, any, tool or none, not {}",
                quote(type));
  }
  if (const auto alone = choice.boolean("disable_parallel_tool_use")) out["parallel_tool_calls"] = !*alone;
  choice.finish();
}

ToolRequest read_anthropic_tools(Fields& fields) {
  Json out = Json::object();
  if (const Json* tools = fields.get("tools")) {
    if (!tools->is_array()) bad_request("tools", "'tools' must be a list, not {}", describe(*tools));
    Json list = Json::array();
    for (size_t i = 0; i < tools->size(); ++i)
      list.push_back(read_tool((*tools)[i], fmt::format("tools[{}]", i)));
    out["tools"] = std::move(list);
  }
  if (const Json* choice = fields.get("tool_choice")) read_tool_choice(*choice, out);
  Fields openai(out, "");
  return read_tools(openai);
}

void read_thinking(Fields& fields, AnthropicConversation& out) {
  const Json* value = fields.get("thinking");
  if (value == nullptr) return;
  Fields thinking(*value, "thinking");
  const std::string type = thinking.string("type").value_or("");
  if (type != "enabled" && type != "adaptive" && type != "between_tools" && type != "disabled") {
    bad_request("thinking.type", "'thinking.type' must be enabled, adaptive or disabled, not {}",
                quote(type));
  }
  out.variables["enable_thinking"] = type != "disabled";
  const auto budget = thinking.integer("budget_tokens", 1, INT64_MAX);
  if (type == "enabled") out.thinking_budget = budget;
  out.include_thinking = thinking.string("display").value_or("") != "omitted";
  thinking.finish();
}

// "output_config.format", or "output_format" as earlier versions have it.
std::optional<RequestedFormat> read_anthropic_format(Fields& fields) {
  const Json* format = fields.get("output_format");
  std::string path = "output_format";
  if (const Json* config = fields.get("output_config")) {
    Fields inner(*config, "output_config");
    inner.accept({"effort", "task_budget"});
    if (const Json* newer = inner.get("format")) {
      format = newer;
      path = "output_config.format";
    }
    inner.finish();
  }
  if (format == nullptr) return std::nullopt;
  Fields inner(*format, path);
  if (inner.string("type") != "json_schema")
    bad_request(inner.param("type"), "'{}' must be 'json_schema'", inner.param("type"));
  const Json* schema = inner.get("schema");
  if (schema == nullptr) bad_request(inner.param("schema"), "'{}' is missing", inner.param("schema"));
  inner.accept({"name"});
  inner.finish();
  const Json openai = {{"guided_json", *schema}};
  Fields named(openai, "");
  return read_output_format(named);
}

}  // namespace

AnthropicConversation read_anthropic_conversation(Fields& fields) {
  AnthropicConversation out;
  out.tools = read_anthropic_tools(fields);
  Json messages = read_conversation(fields);
  const Json& last = messages.back();
  out.continues = last["role"] == "assistant" && !last.contains("tool_calls") && last["content"] != "";
  out.variables = {{"messages", std::move(messages)}, {"add_generation_prompt", !out.continues}};
  if (out.tools.may_call()) out.variables["tools"] = out.tools.list;
  read_template_kwargs(fields, out.variables);
  read_thinking(fields, out);
  out.format = read_anthropic_format(fields);
  if (!out.format) out.format = read_output_format(fields);
  return out;
}

}  // namespace chorale::server
