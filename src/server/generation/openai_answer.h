// What the answers of OpenAI's two generating endpoints share.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "server/generation/answer.h"
#include "server/wire/json_body.h"

namespace chorale::server {

// What stands in every object of an answer.
struct AnswerHead {
  std::string id;
  int64_t created = 0;  // Unix time, seconds
  std::string model;
};

// Prompt tokens count once for all choices of a prompt.
Json usage_json(std::span<const ChoiceState> choices);

// "id", "object", "created", "model", "choices".
Json answer_json(const AnswerHead& head, const char* object, Json choices);

// JSON has no infinity: what is impossible is written as OpenAI does, as -9999.
double finite_logprob(float logprob);

// The text that stands for one token in lists of logprobs; parts of characters become U+FFFD.
std::string token_text(const text::Tokenizer& tokenizer, int32_t id);

}  // namespace chorale::server
