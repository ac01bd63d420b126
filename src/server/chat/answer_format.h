// The answers of /v1/chat/completions.
#pragma once

#include <cstddef>
#include <memory>

#include "server/chat/message_parser.h"
#include "server/generation/answer.h"
#include "server/generation/openai_answer.h"
#include "text/tokenizer.h"

namespace chorale::server {

struct ChatOptions {
  bool logprobs = false;
  bool include_usage = false;
  bool continuous_usage = false;                  // in each message of a stream
  bool token_ids = false;                         // tell them, of the prompt and of the answer
  std::shared_ptr<const MessageOptions> message;  // how the text becomes a message
};

// A stream tells what the text gives as it comes; put together, it is the message of the whole answer.
std::unique_ptr<AnswerFormat> make_chat_format(AnswerHead head, const text::Tokenizer& tokenizer,
                                               ChatOptions options, size_t num_choices);

}  // namespace chorale::server
