// Reads one tool call from the text after its opening tag, byte by byte. What follows from it depends on the
// bytes alone, not on how they came in pieces.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

namespace chorale::server {

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
  // The tag must outlive this object.
  explicit ToolCallScanner(std::string_view closing_tag) : closing_tag_(closing_tag) {}
  Step push_closing(char c);

  bool started_ = false;
  bool complete_ = false;
  bool closing_ = false;
  std::string name_;
  std::string arguments_;

 private:
  std::string_view closing_tag_;
  std::string closing_text_;
  size_t closing_size_ = 0;  // without the white space before the tag
};

// Around a call, in more than one form.
inline constexpr std::string_view kToolCallOpen = "<tool_call>";
inline constexpr std::string_view kToolCallClose = "</tool_call>";

// White space of JSON and between tags.
inline bool is_tool_space(char c) {
  return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

}  // namespace chorale::server
