// The forms in which models write calls of tools: all that differs between them is in one value for each.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/chat/tool_call_scanner.h"
#include "server/chat/tools.h"

namespace chorale::server {

class ToolGrammarWriter;

// Immutable; a new form is a file like json_tool_call.cpp and a line in tool_call_formats().
struct ToolCallFormat {
  // Whether a chat template that writes this text about a tool asks the model for this form.
  bool (*is_asked_for)(std::string_view text);
  // A call begins with one of these.
  std::span<const std::string_view> opening_tags;
  // The tags of calls for which vocabularies may have tokens of their own.
  std::span<const std::string_view> token_tags;
  // Everything that the scanner looks for between < and >.
  std::span<const std::string_view> all_tags;
  // Reads one call from what follows the opening tag. `tools` must outlive the scanner.
  std::unique_ptr<ToolCallScanner> (*make_scanner)(std::string_view opening_tag,
                                                   const std::vector<Tool>& tools);
  // Adds the rule of that name for a call of the tool, and the rules that it needs.
  void (*add_call)(ToolGrammarWriter& grammar, const std::string& rule, const Tool& tool);
  // Templates want the arguments of earlier calls as objects; else as the JSON text that clients send.
  bool arguments_are_objects = false;
};

// Qwen3: <tool_call>\n{"name": "f", "arguments": {...}}\n</tool_call>
//
// The arguments that are told are the bytes that the model wrote from { to }, where control characters in
// strings are escaped; an object in a string is unwrapped, and null and the empty string are {}. What is not
// JSON otherwise breaks the call. They may stand before the name, and be called "parameters"; other members
// are passed over. A call without arguments has {}. A missing last } is forgiven. In a grammar they match the
// tool's schema.
extern const ToolCallFormat kJsonToolCalls;

// Qwen3-Coder: <tool_call>\n<function=f>\n<parameter=p>\nvalue\n</parameter>\n</function>\n</tool_call>
//
// An opening <function= without <tool_call> before it begins a call, too. A value ends before </parameter>
// where <parameter=, </function> or </tool_call> follows it, after white space, and directly before one of
// these; any other tag is text. One line break is taken from both ends of a value, and a line break in place
// of the > of an opening tag is forgiven. Values that can only be strings are told as they come. The schema
// of the tool decides what it means: where strings are not allowed, and the value is JSON of any kind, it
// stays as it is; where other types are allowed beside strings, and it is JSON of one of those, too; True,
// False and None count as true, false and null. All else is a string, also where the schema says nothing. Of
// two values of one parameter the first counts.
//
// In a grammar the parameters come in the order of the schema's properties, the required ones always; a value
// is any text up to </parameter>, a text that follows what the schema says of strings, or, where it allows
// others, JSON that matches the property's schema.
extern const ToolCallFormat kXmlToolCalls;

// All of them, those first that others would be taken for.
std::span<const ToolCallFormat* const> tool_call_formats();

// The form that a chat template asks for which writes this text about a tool.
const ToolCallFormat& find_tool_call_format(std::string_view text);

}  // namespace chorale::server
