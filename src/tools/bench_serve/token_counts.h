// How many tokens went in and out: as the server counts, or else as well as can be told.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "text/tokenizer.h"
#include "tools/bench_serve/requests.h"
#include "tools/bench_serve/stream_answer.h"

namespace chorale::bench_serve {

// Sets prompt_tokens and output_tokens of the records of requests that succeeded: from the server's usage;
// where it gives none, prompts as they were made, and outputs counted by the tokenizer, or else, where it is
// a null pointer, one for each event. Gives a sentence for each of these stand-ins that was needed.
std::vector<std::string> settle_counts(std::span<RequestRecord> records, std::span<const Request> requests,
                                       const text::Tokenizer* tokenizer);

}  // namespace chorale::bench_serve
