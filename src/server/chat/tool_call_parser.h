// Splits the content of an answer, as it comes, into text and calls of tools. Reasoning must not be given to
// it: a call that the model only thinks about is none.
//
// The result depends on the content alone and not on how it was cut into pieces. Held back is text that may
// still become a tag, white space that may stand before a call, and of a call what cannot be told yet.
//
// White space before and after a call is not content, except between content on both sides of it. A call that
// is malformed, or cut off, is given as content as far as it was not told as a call: as a whole, tags
// included, when its arguments had not begun or calls are told only when they are complete; else the call
// stays with arguments that are not complete JSON, and the rest is content.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/chat/tool_call_format.h"
#include "server/chat/tool_call_scanner.h"
#include "server/chat/tools.h"

namespace chorale::server {

// What a piece adds to one call.
struct ToolCallDelta {
  int64_t index = 0;                // the call's, within the answer
  std::optional<std::string> name;  // with the first, which has no arguments
  std::string arguments;            // JSON text; all of a call concatenated are its arguments
};

// Not thread-safe.
class ToolCallParser {
 public:
  struct Options {
    const ToolCallFormat* format = &kJsonToolCalls;
    bool parallel = true;  // false: calls after the first are left out
    bool whole = false;    // a call is told when it is complete, and not before
  };
  struct Result {
    std::string content;
    std::vector<ToolCallDelta> calls;
  };

  // `tools` must outlive this object.
  ToolCallParser(const std::vector<Tool>& tools, Options options) : tools_(tools), options_(options) {}

  Result push(std::string_view piece);
  // What is held back when the text ends.
  Result finish();

  // Calls that have been told.
  int64_t num_calls() const { return num_calls_; }
  // Of a call that broke, or was cut off, a part was told, with arguments that are not JSON.
  bool told_broken() const { return told_broken_; }
  // After finish(): the text ended within a call that is not one of those left out.
  bool cut_off() const { return cut_off_; }

 private:
  void push(char c, Result& result);
  void in_content(char c, Result& result);
  void in_call(char c, Result& result);
  void begin_call();
  void tell_call(Result& result);
  void end_call();
  // The call has ended before what it holds back.
  void leave_call(Result& result);
  void add_arguments(std::string arguments, Result& result);
  void add_content(std::string_view text, Result& result);
  // Whether the text is, or may become, a tag that begins a call.
  bool is_opening(std::string_view text) const;
  bool may_be_opening(std::string_view text) const;
  bool left_out() const { return num_calls_ > 0 && !options_.parallel; }

  const std::vector<Tool>& tools_;
  Options options_;
  std::string space_;  // held back: white space before what may be a call
  std::string held_;   // held back: the beginning of a tag, or what of a call has not been told
  std::unique_ptr<ToolCallScanner> call_;  // the one that is being read
  bool told_ = false;                      // its name was told
  bool has_arguments_ = false;             // all of them
  bool left_out_ = false;                  // it is left out
  bool after_call_ = false;                // nothing but white space since the last call
  bool has_content_ = false;
  bool cut_off_ = false;
  bool told_broken_ = false;
  int64_t num_calls_ = 0;
};

}  // namespace chorale::server
