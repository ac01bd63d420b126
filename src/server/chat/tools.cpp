#include "server/chat/tools.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "server/generation/json_schema.h"
#include "server/wire/bad_request.h"

namespace chorale::server {
namespace {

constexpr size_t kMaxTools = 128;  // as OpenAI's API
constexpr size_t kMaxNameBytes = 64;
constexpr int kMaxSchemas = 256;  // looked at for one type: a schema may refer to itself

bool is_name(std::string_view name) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-' || c == '.';
  };
  return !name.empty() && name.size() <= kMaxNameBytes && std::all_of(name.begin(), name.end(), allowed);
}

// Fields beside these are the client's own: the template shows the model the whole tool.
Tool read_tool(const Json& value, const std::string& path) {
  Fields outer(value, path);
  const std::string type = outer.string("type").value_or("");
  if (type != "function") {
    bad_request(outer.param("type"), "'{}' must be 'function', not {}", outer.param("type"), quote(type));
  }
  const Json* function = outer.get("function");
  if (function == nullptr) bad_request(outer.param("function"), "'{}' is missing", outer.param("function"));
  Fields inner(*function, outer.param("function"));
  Tool tool;
  const std::string name_param = inner.param("name");
  const auto name = inner.string("name");
  if (!name) bad_request(name_param, "'{}' is missing", name_param);
  check_tool_name(*name, name_param);
  tool.name = *name;
  inner.string("description");
  tool.strict = inner.boolean("strict").value_or(false);
  tool.param = inner.param("parameters");
  if (const Json* parameters = inner.get("parameters")) {
    if (!parameters->is_object()) {
      const std::string param = inner.param("parameters");
      bad_request(param, "'{}' must be an object, a JSON schema, not {}", param, describe(*parameters));
    }
    tool.parameters = *parameters;
  }
  return tool;
}

void read_list(Fields& fields, ToolRequest& out) {
  const Json* list = fields.get("tools");
  if (list == nullptr) return;
  if (!list->is_array()) bad_request("tools", "'tools' must be a list, not {}", describe(*list));
  if (list->size() > kMaxTools) {
    bad_request("tools", "'tools' may have at most {} tools, not {}", kMaxTools, list->size());
  }
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string path = fmt::format("tools[{}]", i);
    Tool tool = read_tool((*list)[i], path);
    if (find_tool(out.tools, tool.name) != nullptr) {
      bad_request(path + ".function.name", "'tools' has two functions named {}", quote(tool.name));
    }
    out.tools.push_back(std::move(tool));
  }
  out.list = *list;
}

ToolRequest::Choice read_choice(const Json& value, const std::vector<Tool>& tools, std::string& name) {
  if (value.is_object()) {
    Fields outer(value, "tool_choice");
    outer.refuse("type", "only \"function\" is", {"function"});
    const Json* function = outer.get("function");
    if (function == nullptr) bad_request("tool_choice.function", "'tool_choice.function' is missing");
    outer.finish();
    Fields inner(*function, "tool_choice.function");
    name = inner.string("name").value_or("");
    inner.finish();
    if (find_tool(tools, name) == nullptr) {
      bad_request("tool_choice.function.name", "'tools' has no function named {}", quote(name));
    }
    return ToolRequest::Choice::named;
  }
  if (value == "none") return ToolRequest::Choice::none;
  if (value == "auto") return ToolRequest::Choice::automatic;
  if (value == "required") return ToolRequest::Choice::required;
  bad_request("tool_choice", "'tool_choice' must be 'none', 'auto', 'required' or a function, not {}",
              value.is_string() ? quote(value.get_ref<const std::string&>()) : describe(value));
}

void add_types(const Json& schema, const Json& root, int& budget, std::set<std::string>& types);

void add_types_of_parts(const Json& schema, const Json& root, int& budget, std::set<std::string>& types) {
  for (const char* name : {"anyOf", "oneOf", "allOf"}) {
    const auto parts = schema.find(name);
    if (parts == schema.end() || !parts->is_array()) continue;
    for (const Json& part : *parts) add_types(part, root, budget, types);
  }
}

const char* type_of(const Json& value) {
  if (value.is_number_integer()) return "integer";
  return value.is_number() ? "number" : value.type_name();
}

void add_types(const Json& schema, const Json& root, int& budget, std::set<std::string>& types) {
  if (!schema.is_object() || --budget < 0) return;
  if (const auto type = schema.find("type"); type != schema.end()) {
    if (type->is_string()) types.insert(type->get<std::string>());
    if (!type->is_array()) return;
    for (const Json& one : *type) {
      if (one.is_string()) types.insert(one.get<std::string>());
    }
    return;
  }
  if (const auto values = schema.find("enum"); values != schema.end() && values->is_array()) {
    for (const Json& value : *values) types.insert(type_of(value));
    return;
  }
  if (const auto value = schema.find("const"); value != schema.end()) {
    types.insert(type_of(*value));
    return;
  }
  if (const auto reference = schema.find("$ref"); reference != schema.end()) {
    if (const Json* target = resolve_reference(*reference, root)) add_types(*target, root, budget, types);
    return;
  }
  add_types_of_parts(schema, root, budget, types);
}

}  // namespace

namespace {

// {"type": "allowed_tools", "allowed_tools": {"mode": "auto" or "required", "tools": [...]}}, or with mode
// and tools beside the type: the others are as if they were not offered.
ToolRequest::Choice read_allowed_tools(const Json& choice, ToolRequest& out) {
  Fields outer(choice, "tool_choice");
  outer.string("type");
  const Json* inside = outer.get("allowed_tools");
  const bool nested = inside != nullptr;
  Fields fields(nested ? *inside : choice, nested ? "tool_choice.allowed_tools" : "tool_choice");
  const std::string mode = fields.string("mode").value_or("auto");
  if (mode != "auto" && mode != "required") {
    bad_request(fields.param("mode"), "'{}' must be 'auto' or 'required', not {}", fields.param("mode"),
                quote(mode));
  }
  const Json* list = fields.get("tools");
  const std::string param = fields.param("tools");
  if (list == nullptr || !list->is_array() || list->empty())
    bad_request(param, "'{}' must be a list of at least one tool", param);
  std::set<std::string> names;
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string path = fmt::format("{}[{}]", param, i);
    Fields tool((*list)[i], path);
    const Json* function = tool.get("function");
    Fields named(function != nullptr ? *function : (*list)[i], path);
    const std::string name = named.string("name").value_or("");
    if (find_tool(out.tools, name) == nullptr)
      bad_request(path, "'tools' has no function named {}", quote(name));
    names.insert(name);
  }
  Json kept = Json::array();
  std::vector<Tool> tools;
  for (size_t i = 0; i < out.tools.size(); ++i) {
    if (!names.contains(out.tools[i].name)) continue;
    kept.push_back(out.list[i]);
    tools.push_back(std::move(out.tools[i]));
  }
  out.list = std::move(kept);
  out.tools = std::move(tools);
  return mode == "required" ? ToolRequest::Choice::required : ToolRequest::Choice::automatic;
}

}  // namespace

void check_tool_name(const std::string& name, const std::string& param) {
  if (is_name(name)) return;
  bad_request(param, "'{}' must be 1 to {} letters, digits, '_', '-' or '.', not {}", param, kMaxNameBytes,
              quote(name));
}

ToolRequest read_tools(Fields& fields) {
  ToolRequest out;
  read_list(fields, out);
  out.parallel = fields.boolean("parallel_tool_calls").value_or(true);
  const Json* choice = fields.get("tool_choice");
  if (choice == nullptr) {
    if (!out.tools.empty()) out.choice = ToolRequest::Choice::automatic;
    return out;
  }
  if (out.tools.empty() && *choice != "none" && *choice != "auto") {
    bad_request("tool_choice", "'tool_choice' is only 'none' or 'auto' without 'tools'");
  }
  if (choice->is_object() && choice->value("type", Json()) == "allowed_tools") {
    out.choice = read_allowed_tools(*choice, out);
    return out;
  }
  out.choice = read_choice(*choice, out.tools, out.name);
  return out;
}

const Tool* find_tool(const std::vector<Tool>& tools, std::string_view name) {
  for (const Tool& tool : tools) {
    if (tool.name == name) return &tool;
  }
  return nullptr;
}

std::set<std::string> schema_types(const Json& schema, const Json& root) {
  std::set<std::string> types;
  int budget = kMaxSchemas;
  add_types(schema, root, budget, types);
  return types;
}

}  // namespace chorale::server
