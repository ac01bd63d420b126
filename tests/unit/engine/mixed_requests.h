// Requests of many kinds for a model that computes: shared prefixes, sampling, penalties, log probabilities.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include <fmt/format.h>

#include "engine/request.h"

namespace chorale::engine {

// Prompts of 1 to 150 tokens, half of them beginning with one of three long prefixes, sampled in many ways.
// Token ids are below 4064. The same seed gives the same requests.
inline std::vector<GenerationRequest> mixed_requests(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<uint64_t>(n)); };
  std::vector<GenerationRequest> requests;
  for (int64_t i = 0; i < count; ++i) {
    GenerationRequest r;
    r.id = fmt::format("r{}", i);
    if (below(2) == 0) {
      const int64_t prefix = below(3);
      for (int64_t t = 0; t < 70; ++t) {
        r.prompt_ids.push_back(static_cast<int32_t>((t * t + 91 * prefix) % 4064));
      }
    }
    const int64_t own = 1 + below(80);
    for (int64_t t = 0; t < own; ++t) r.prompt_ids.push_back(static_cast<int32_t>(below(4064)));
    r.sampling.max_new_tokens = 4 + below(44);
    r.sampling.temperature = below(3) == 0 ? 0.0 : 0.7 + static_cast<double>(below(6)) / 10;
    if (below(3) == 0) r.sampling.top_p = 0.9;
    if (below(3) == 0) r.sampling.top_k = 40;
    if (below(4) == 0) r.sampling.repetition_penalty = 1.1;
    if (i % 4 == 3) r.sampling.frequency_penalty = 0.4;
    r.sampling.seed = random();
    r.sampling.ignore_eos = below(2) == 0;
    r.num_top_logprobs = 5;
    r.prompt_logprobs_start = below(2) == 0 ? 0 : -1;
    requests.push_back(std::move(r));
  }
  return requests;
}

}  // namespace chorale::engine
