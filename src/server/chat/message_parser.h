// From the generated text of one choice to the parts of a chat message: reasoning, content and tool calls. A
// stream gives it the text in pieces, an answer as a whole; what comes out, concatenated, is the same.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/chat/reasoning_parser.h"
#include "server/chat/tool_call_parser.h"
#include "server/chat/tools.h"
#include "text/tokenizer.h"

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

// Complete calls that end reasoning which is never closed count as calls, and stay part of it: models forget
// the </think> before them.
struct MessagePiece {
  std::string reasoning;
  std::string content;
  std::vector<ToolCallDelta> calls;
};

// The tokens of the tags that a parser of messages looks for. They are part of the text even where the
// tokenizer marks them as special.
std::vector<int32_t> tag_tokens(const text::Tokenizer& tokenizer, const MessageOptions& options);

// Not thread-safe.
class MessageParser {
 public:
  explicit MessageParser(std::shared_ptr<const MessageOptions> options);

  MessagePiece push(std::string_view text);
  // What is held back when the text ends.
  MessagePiece finish();

  // Calls were told, all of them with all their arguments.
  bool made_calls() const {
    return calls_.num_calls() + num_calls_of_reasoning_ > 0 && !calls_.told_broken();
  }
  // After finish(): the text ended in the middle of a call.
  bool cut_off_call() const { return calls_.cut_off(); }

 private:
  void add(ReasoningParser::Result split, MessagePiece& piece);
  // The calls at the end of reasoning that the text never closed.
  void add_calls_of_reasoning(MessagePiece& piece);

  std::shared_ptr<const MessageOptions> options_;
  ReasoningParser reasoning_;
  ToolCallParser calls_;
  std::string held_reasoning_;
  std::string all_reasoning_;  // where it may have calls at its end
  int64_t num_calls_of_reasoning_ = 0;
};

}  // namespace chorale::server
