// Random requests that share prefixes, for engines with a FakeRunner.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>

#include "engine/engine.h"

namespace chorale::engine {

class RandomTraffic {
 public:
  static constexpr int64_t kVocab = 40;

  explicit RandomTraffic(uint32_t seed) : random_(seed) {}

  int64_t below(int64_t n) { return static_cast<int64_t>(random_() % static_cast<uint64_t>(n)); }
  bool chance(int64_t one_in) { return below(one_in) == 0; }

  EngineOptions options() {
    EngineOptions o;
    o.max_total_tokens = (2 + below(14)) * kBlockTokens;
    o.chunked_prefill_size = 1 + below(chance(2) ? 10 : 200);
    o.max_running_requests = 1 + below(10);
    o.max_logits_rows = o.max_running_requests + below(4);
    o.max_context_len = 20 + below(400);
    o.enable_prefix_cache = !chance(4);
    o.eos_token_ids = {static_cast<int32_t>(below(kVocab))};
    return o;
  }

  GenerationRequest request(const std::string& id, const EngineOptions& o) {
    GenerationRequest r;
    r.id = id;
    const int64_t longest = std::min({o.max_context_len - 1, o.max_total_tokens, int64_t{200}});
    const int64_t num_prompt = 1 + below(chance(2) ? std::min<int64_t>(longest, 40) : longest);
    // One of three conversations, cut off anywhere: prefixes are often shared.
    const int64_t conversation = below(3);
    for (int64_t i = 0; i < num_prompt; ++i) {
      r.prompt_ids.push_back(static_cast<int32_t>((i * i + i / 7 + conversation) % kVocab));
    }
    if (chance(3)) r.prompt_ids.back() = static_cast<int32_t>(below(kVocab));
    SamplingParams& p = r.sampling;
    p.max_new_tokens = 1 + below(120);
    p.min_new_tokens = chance(3) ? below(p.max_new_tokens) : 0;
    p.temperature = chance(3) ? 0 : 0.2 + static_cast<double>(below(20)) / 10;
    if (chance(3)) p.top_k = 1 + below(kVocab);
    if (chance(3)) p.top_p = 0.8;
    if (chance(4)) p.min_p = 0.05;
    if (chance(3)) p.repetition_penalty = 1.2;
    if (chance(4)) p.frequency_penalty = 0.4;
    if (chance(4)) p.presence_penalty = -0.4;
    p.ignore_eos = !chance(3);
    p.seed = static_cast<uint64_t>(below(4));
    p.choice_index = static_cast<uint32_t>(below(2));
    if (chance(3)) r.num_top_logprobs = static_cast<int32_t>(below(5));
    if (chance(4)) r.prompt_logprobs_start = below(num_prompt + 1);
    return r;
  }

 private:
  std::mt19937_64 random_;
};

}  // namespace chorale::engine
