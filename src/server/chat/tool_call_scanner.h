// Reads one tool call from the text after its opening tag, byte by byte. What follows from it depends on the
// bytes alone, not on how they came in pieces.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/chat/tools.h"

namespace chorale::server {

// How a model writes its calls.
enum class ToolCallForm {
  json,  // Qwen3: <tool_call>\n{"name": "f", "arguments": {...}}\n</tool_call>
  xml,   // Qwen3-Coder:
         // <tool_call>\n<function=f>\n<parameter=p>\nvalue\n</parameter>\n</function>\n</tool_call>
};

// Not thread-safe.
class ToolCallScanner {
 public:
  enum class Step {
    more,
    done,    // the byte ended the call's closing tag
    refuse,  // the byte cannot follow: the call has ended before it, as it should if complete(), else broken
  };

  virtual ~ToolCallScanner() = default;
  // Must not be called after `done` or `refuse`.
  virtual Step push(char c) = 0;

  // The name is known, and that arguments, or none, follow it: the call can be told.
  bool started() const { return started_; }
  const std::string& name() const { return name_; }
  // What came of the arguments since the last time, JSON text. To be taken once the call has started.
  std::string take_arguments() { return std::exchange(arguments_, {}); }
  // The call has a name and all its arguments.
  bool complete() const { return complete_; }
  // Nothing but the closing tag may follow, and what has come of it, with the white space before it.
  bool closing() const { return closing_; }
  const std::string& closing_text() const { return closing_text_; }

 protected:
  Step push_closing(char c);

  bool started_ = false;
  bool complete_ = false;
  bool closing_ = false;
  std::string name_;
  std::string arguments_;

 private:
  std::string closing_text_;
  size_t closing_size_ = 0;  // of the tag alone
};

inline constexpr std::string_view kToolCallOpen = "<tool_call>";
inline constexpr std::string_view kToolCallClose = "</tool_call>";
inline constexpr std::string_view kFunctionOpen = "<function=";

// White space of JSON and between tags.
inline bool is_tool_space(char c) {
  return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

inline ToolCallScanner::Step ToolCallScanner::push_closing(char c) {
  if (closing_size_ > 0 || !is_tool_space(c)) {
    if (c != kToolCallClose[closing_size_]) return Step::refuse;
    ++closing_size_;
  }
  closing_text_ += c;
  return closing_size_ == kToolCallClose.size() ? Step::done : Step::more;
}

// The JSON form. The arguments are the bytes that the model wrote from { to }; only their brackets and
// strings are checked. They may stand before the name, and be called "parameters"; other members are passed
// over. A call without arguments has {}. A missing last } is forgiven.
std::unique_ptr<ToolCallScanner> json_tool_call_scanner();

// The XML form, after <tool_call> or, where a model leaves it out, after <function=. One line break is taken
// from both ends of a value. The schema of the tool decides what it means: where strings are not allowed, and
// the value is JSON of any kind, it stays as it is; where other types are allowed beside strings, and it is
// JSON of one of those, too; True, False and None count as true, false and null. All else is a string, also
// where the schema says nothing. Of two values of one parameter the first counts. `tools` must outlive it.
std::unique_ptr<ToolCallScanner> xml_tool_call_scanner(const std::vector<Tool>& tools,
                                                       bool inside_function_tag);

}  // namespace chorale::server
