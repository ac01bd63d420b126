#include "server/chat/message_answer.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/sha256.h"
#include "server/chat/reasoning_parser.h"
#include "server/generation/text_generation.h"

namespace chorale::server {

const char* message_finish_name(engine::FinishReason finish, const MessageParser& parser) {
  const bool cut_off = finish == engine::FinishReason::length && parser.cut_off_call();
  return parser.made_calls() && !cut_off ? "tool_calls" : finish_name(finish);
}

const char* parsed_finish_reason(const std::shared_ptr<const MessageOptions>& options,
                                 const ChoiceState& before, const TextPiece& last) {
  MessageParser parser(options);
  if (options->parse_calls) {
    parser.push(before.text);
    parser.push(last.text);
    parser.finish();
  }
  return message_finish_name(last.finish, parser);
}

int64_t count_reasoning_tokens(const ChoiceState& choice, bool opened) {
  const std::string_view text = choice.text;
  size_t begin = 0;
  if (!opened) {
    begin = std::min(text.find_first_not_of(" \t\r\n"), text.size());
    if (!text.substr(begin).starts_with(kThinkOpen)) return 0;
    begin += kThinkOpen.size();
  }
  const size_t end = std::min(text.find(kThinkClose, begin), text.size());
  const int64_t first = count_characters(text.substr(0, begin));
  const int64_t last = count_characters(text.substr(0, end));
  return std::ranges::count_if(choice.text_offsets,
                               [&](int64_t offset) { return offset >= first && offset < last; });
}

std::string call_id(std::string_view prefix, const AnswerHead& head, int64_t choice, int64_t call) {
  return fmt::format("{}{}", prefix,
                     sha256_hex(fmt::format("{}/{}/{}", head.id, choice, call)).substr(0, 24));
}

void append(MessagePiece&& more, MessagePiece& piece) {
  piece.reasoning += more.reasoning;
  piece.content += more.content;
  for (ToolCallDelta& call : more.calls) piece.calls.push_back(std::move(call));
}

std::vector<WholeCall> whole_calls(std::vector<ToolCallDelta> deltas) {
  std::vector<WholeCall> calls;
  for (ToolCallDelta& delta : deltas) {
    if (delta.name) calls.push_back({delta.index, std::move(*delta.name), ""});
    calls.back().arguments += delta.arguments;
  }
  return calls;
}

}  // namespace chorale::server
