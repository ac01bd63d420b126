#include "server/generation/openai_answer.h"

#include <cmath>
#include <set>
#include <span>
#include <utility>

namespace chorale::server {

Json usage_json(std::span<const ChoiceState> choices) {
  int64_t prompt = 0;
  int64_t cached = 0;
  int64_t completion = 0;
  std::set<int64_t> counted;
  for (const ChoiceState& choice : choices) {
    completion += choice.num_completion_tokens;
    if (!counted.insert(choice.plan.prompt_index).second) continue;
    prompt += choice.num_prompt_tokens;
    cached += choice.num_cached_tokens;
  }
  return {{"prompt_tokens", prompt},
          {"completion_tokens", completion},
          {"total_tokens", prompt + completion},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

Json answer_json(const AnswerHead& head, const char* object, Json choices) {
  return {{"id", head.id},
          {"object", object},
          {"created", head.created},
          {"model", head.model},
          {"choices", std::move(choices)}};
}

double finite_logprob(float logprob) {
  return std::isfinite(logprob) ? static_cast<double>(logprob) : -9999.0;
}

std::string token_text(const text::Tokenizer& tokenizer, int32_t id) {
  return tokenizer.decode(std::span(&id, 1), false);
}

}  // namespace chorale::server
