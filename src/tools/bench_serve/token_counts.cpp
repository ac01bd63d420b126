#include "tools/bench_serve/token_counts.h"

#include <fmt/format.h>

#include "base/error.h"

namespace chorale::bench_serve {

std::vector<std::string> settle_counts(std::span<RequestRecord> records, std::span<const Request> requests,
                                       const text::Tokenizer* tokenizer) {
  CHORALE_CHECK(records.size() == requests.size());
  int64_t own_prompts = 0;
  int64_t unknown_prompts = 0;
  int64_t own_outputs = 0;
  for (size_t i = 0; i < records.size(); ++i) {
    RequestRecord& record = records[i];
    if (!record.ok()) continue;
    own_prompts += record.usage_prompt || !requests[i].prompt_tokens ? 0 : 1;
    unknown_prompts += record.usage_prompt || requests[i].prompt_tokens ? 0 : 1;
    own_outputs += record.usage_output ? 0 : 1;
    record.prompt_tokens = record.usage_prompt.value_or(requests[i].prompt_tokens.value_or(0));
    if (record.usage_output) {
      record.output_tokens = *record.usage_output;
    } else {
      record.output_tokens =
          tokenizer != nullptr ? std::ssize(tokenizer->encode(record.text, false)) : record.num_events();
    }
  }
  std::vector<std::string> notes;
  if (own_prompts > 0)
    notes.push_back(
        fmt::format("The server told no prompt tokens for {} requests: theirs are as sent.", own_prompts));
  if (unknown_prompts > 0)
    notes.push_back(fmt::format(
        "The server told no prompt tokens for {} requests, and without --tokenizer they count as 0.",
        unknown_prompts));
  if (own_outputs > 0)
    notes.push_back(fmt::format(
        "The server told no output tokens for {} requests: {}.", own_outputs,
        tokenizer != nullptr ? "the tokenizer has counted them" : "each event of a stream counts as one"));
  return notes;
}

}  // namespace chorale::bench_serve
