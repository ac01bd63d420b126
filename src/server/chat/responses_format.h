// The answers of /v1/responses, as OpenAI's Responses schema has them.
#pragma once

#include <memory>
#include <string>

#include "server/chat/message_parser.h"
#include "server/generation/answer.h"
#include "server/generation/openai_answer.h"
#include "server/generation/response_store.h"
#include "server/wire/json_body.h"

namespace chorale::server {

struct ResponsesOptions {
  std::shared_ptr<const MessageOptions> message;
  Json echo;                             // fields of the request that every answer repeats
  std::shared_ptr<ResponseStore> store;  // nullptr: it is not kept
  std::string holder;                    // in the store
  Json input_items;                      // for the store
  Json messages;                         // the conversation before the answer, for the store
};

// For one choice. While it runs, the store has it as "in_progress"; at its end as it was told, or, where the
// client has gone, as "cancelled".
std::unique_ptr<AnswerFormat> make_responses_format(AnswerHead head, ResponsesOptions options);

}  // namespace chorale::server
