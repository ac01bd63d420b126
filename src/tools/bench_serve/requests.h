// What is asked for, and prompts that are made of random tokens.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "text/tokenizer.h"

namespace chorale::bench_serve {

struct Request {
  std::variant<std::string, std::vector<int32_t>> prompt;  // a text, or token ids
  std::optional<int64_t> prompt_tokens;                    // where they are known here
  int64_t output_tokens = 1;                               // at most, or exactly where the end is ignored
};

struct RandomShape {
  int64_t requests = 0;
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  double range_ratio = 0;  // 0 to 1

  // Lengths are drawn evenly from [least(tokens), tokens].
  int64_t least(int64_t tokens) const;
};

// A pure function of its arguments: the lengths of one request of a load.
struct RequestLengths {
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
};
RequestLengths draw_lengths(const RandomShape& shape, uint64_t seed, int64_t request);

// A pure function of its arguments, also of each request: more requests begin with the same ones.
// Prompts of ids from [0, vocab_size).
std::vector<Request> random_id_requests(const RandomShape& shape, int64_t vocab_size, uint64_t seed);

// Prompts of random words, as texts that the tokenizer turns into exactly as many tokens as were drawn, those
// that it adds itself included. Throws Error when it has no words to make such texts of, or when it adds as
// many tokens as a prompt may have.
std::vector<Request> random_text_requests(const RandomShape& shape, const text::Tokenizer& tokenizer,
                                          uint64_t seed);

}  // namespace chorale::bench_serve
