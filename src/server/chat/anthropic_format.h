// The answers of /v1/messages, as Anthropic's Messages schema has them.
#pragma once

#include <memory>

#include "server/chat/message_parser.h"
#include "server/generation/answer.h"
#include "server/generation/openai_answer.h"

namespace chorale::server {

// For one choice. A stream tells the blocks of the message as the text gives them; put together, they are
// those of the whole answer.
std::unique_ptr<AnswerFormat> make_anthropic_format(AnswerHead head,
                                                    std::shared_ptr<const MessageOptions> message);

}  // namespace chorale::server
