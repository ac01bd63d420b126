// The requests that every strategy of a comparison gets: made of random tokens, or read from a file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/request.h"
#include "text/tokenizer.h"

namespace chorale::tools {

// All arrive at once. Sampled at temperature 1, each with a seed of its own that follows from the workload's,
// and with the log probabilities of the chosen token and of a few alternatives.
struct Workload {
  std::string description;  // for people
  std::vector<engine::GenerationRequest> requests;

  int64_t prompt_tokens() const;
  int64_t max_new_tokens() const;  // all requests' together, at the most
  int64_t longest() const;         // prompt and output of one request, at the most
};

// "random:64x128+64": 64 requests of 128 prompt tokens, which get 64 new tokens each.
struct RandomWorkload {
  int64_t requests = 0;
  int64_t prompt_tokens = 0;  // each request's
  int64_t new_tokens = 0;     // each request's
  bool operator==(const RandomWorkload&) const = default;
};

// Throws Error that names --workload and the form it must have.
RandomWorkload parse_random_workload(std::string_view text);
// The end of sequence does not stop these, so that there are as many tokens as were asked for. Throws Error
// when a request with its output is longer than the context.
Workload make_random(const RandomWorkload& shape, int64_t vocab_size, int64_t context_length, uint64_t seed);

struct Prompt {
  std::string text;
  int64_t max_new_tokens = 0;
  int64_t line = 0;  // where it stands, from 1
  bool operator==(const Prompt&) const = default;
};

// A prompt per line; or, when the first character is "{", a JSON object per line with "prompt" and, if it
// wants another number of tokens than the default, "max_tokens". Blank lines are skipped. Throws Error that
// names `source` and the line.
std::vector<Prompt> parse_prompts(std::string_view text, std::string_view source,
                                  int64_t default_max_new_tokens);
// Throws Error that names `source` and the line for a prompt without tokens, or that is, with its output,
// longer than the context.
Workload make_from_prompts(const std::vector<Prompt>& prompts, const text::Tokenizer& tokenizer,
                           std::string_view source, int64_t context_length, uint64_t seed);

}  // namespace chorale::tools
