// The functions that a chat request offers to the model, and what it says about calling them.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "server/wire/fields.h"
#include "server/wire/json_body.h"

namespace chorale::server {

struct Tool {
  std::string name;
  Json parameters;              // a JSON schema, an object; null: the function takes no arguments
  bool strict = false;          // a part of the schema that cannot be enforced is a mistake
  std::string param = "tools";  // where the schema stands in the request
};

struct ToolRequest {
  enum class Choice { none, automatic, required, named };

  std::vector<Tool> tools;
  Json list;  // the tools as they were given, for the chat template
  Choice choice = Choice::none;
  std::string name;      // the tool that must be called, where the choice is `named`
  bool parallel = true;  // more than one call may be made

  bool may_call() const { return choice != Choice::none && !tools.empty(); }
  bool must_call() const { return choice == Choice::required || choice == Choice::named; }
};

// "tools", "tool_choice" and "parallel_tool_calls". Throws BadRequest.
ToolRequest read_tools(Fields& fields);

// Throws BadRequest about `param` for a name that no function may have.
void check_tool_name(const std::string& name, const std::string& param);

// nullptr: there is none of that name.
const Tool* find_tool(const std::vector<Tool>& tools, std::string_view name);

// The JSON types ("string", "integer", ...) that a schema allows at its top, as far as "type", "enum",
// "const", "anyOf", "oneOf", "allOf" and "$ref" into `root` tell. Empty: it does not tell. Never throws.
std::set<std::string> schema_types(const Json& schema, const Json& root);

}  // namespace chorale::server
