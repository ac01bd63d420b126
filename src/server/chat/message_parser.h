// From the generated text of one choice to the parts of a chat message: reasoning, content and tool calls. A
// stream gives it the text in pieces, an answer as a whole; what comes out, concatenated, is the same.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/chat/reasoning_parser.h"
#include "server/chat/tool_call_parser.h"
#include "server/chat/tools.h"

namespace chorale::server {

struct MessageOptions {
  bool reasoning_opened = false;   // the prompt ends inside <think>
  bool separate_reasoning = true;  // false: the reasoning is content, tags included
  bool include_reasoning = true;   // false: the reasoning is left out
  bool stream_reasoning = true;    // false: the reasoning comes at once, when it has ended
  bool parse_calls = false;        // false: what looks like a call is content
  ToolCallParser::Options calls;
  std::vector<Tool> tools;
};

struct MessagePiece {
  std::string reasoning;
  std::string content;
  std::vector<ToolCallDelta> calls;
};

// Not thread-safe.
class MessageParser {
 public:
  explicit MessageParser(std::shared_ptr<const MessageOptions> options);

  MessagePiece push(std::string_view text);
  // What is held back when the text ends.
  MessagePiece finish();

  // Calls were told, all of them with all their arguments.
  bool made_calls() const { return calls_.num_calls() > 0 && !calls_.told_broken(); }
  // After finish(): the text ended in the middle of a call.
  bool cut_off_call() const { return calls_.cut_off(); }

 private:
  void add(ReasoningParser::Result split, MessagePiece& piece);

  std::shared_ptr<const MessageOptions> options_;
  ReasoningParser reasoning_;
  ToolCallParser calls_;
  std::string held_reasoning_;
};

}  // namespace chorale::server
