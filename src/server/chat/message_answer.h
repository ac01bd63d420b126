// What the answers of all schemas of chats share.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/chat/message_parser.h"
#include "server/generation/answer.h"
#include "server/generation/openai_answer.h"

namespace chorale::server {

// "tool_calls" where calls were made, unless the length has cut off a further one, or a part of one was told;
// else as finish_name().
const char* message_finish_name(engine::FinishReason finish, const MessageParser& parser);

// The same of a choice before its last piece, for AnswerFormat::finish_reason().
const char* parsed_finish_reason(const std::shared_ptr<const MessageOptions>& options,
                                 const ChoiceState& before, const TextPiece& last);

// The tokens whose text begins between the tags, or before the end where the reasoning is not closed.
// `opened`: the prompt has opened it.
int64_t count_reasoning_tokens(const ChoiceState& choice, bool opened);

// Clients tell calls apart by their ids, also across answers.
std::string call_id(std::string_view prefix, const AnswerHead& head, int64_t choice, int64_t call);

void append(MessagePiece&& more, MessagePiece& piece);

// A call, put together from its deltas.
struct WholeCall {
  int64_t index = 0;
  std::string name;
  std::string arguments;
};
std::vector<WholeCall> whole_calls(std::vector<ToolCallDelta> deltas);

}  // namespace chorale::server
