// Requests from a file of conversations in ShareGPT's form:
//   [{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}, ...]}, ...]
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"
#include "tools/bench_serve/requests.h"

namespace chorale::bench_serve {

// The first two turns of a conversation.
struct Exchange {
  std::string prompt;
  std::string reply;
  bool operator==(const Exchange&) const = default;
};

// Conversations of less than two turns are left out, since the file that goes by the name has such. Throws
// Error that names `source`, the conversation and the field for what has another form, or when no
// conversation is left.
std::vector<Exchange> parse_sharegpt(std::string_view text, std::string_view source);

struct ShareGptShape {
  int64_t requests = 0;        // at most
  int64_t output_tokens = 0;   // each request's; 0: as many as its reply has
  int64_t context_tokens = 0;  // longer ones are left out; 0: none is
};

// In a random order. With a tokenizer, prompts and replies of one token are left out; without one, which is a
// null pointer, the lengths of prompts are not known and output_tokens must be given. The result may have
// fewer requests than asked for, or none.
std::vector<Request> sample_sharegpt(const std::vector<Exchange>& exchanges, const ShareGptShape& shape,
                                     const text::Tokenizer* tokenizer, uint64_t seed);

}  // namespace chorale::bench_serve
