// One live request inside the engine: its tokens, where it stands, and which KV blocks it holds.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "engine/prefix_cache.h"
#include "engine/request.h"

namespace chorale::engine {

enum class Phase { waiting, running, finished };

// Not thread-safe: owned by the engine's thread after submit.
struct Sequence {
  Sequence(GenerationRequest r, EventListener l)
      : request(std::move(r)),
        listener(std::move(l)),
        tokens(request.prompt_ids),
        num_prompt(static_cast<int64_t>(tokens.size())),
        next_prompt_logprob(request.prompt_logprobs_start < 0
                                ? num_prompt
                                : std::max<int64_t>(request.prompt_logprobs_start, 1)) {}

  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
  int64_t num_output() const { return num_tokens() - num_prompt; }
  int64_t num_remaining() const { return num_tokens() - num_computed; }
  bool is_decoding() const { return num_output() > 0 && num_remaining() == 1; }
  std::span<const int32_t> prompt() const { return std::span(tokens).first(static_cast<size_t>(num_prompt)); }
  std::span<const int32_t> output() const {
    return std::span(tokens).subspan(static_cast<size_t>(num_prompt));
  }

  // The first position whose logits are still needed; every later one is needed too, and what lies before may
  // come from the prefix cache. It is the last token's position, or earlier while prompt logprobs are due.
  int64_t first_logits_position() const {
    return next_prompt_logprob < num_prompt ? next_prompt_logprob - 1 : num_tokens() - 1;
  }

  GenerationRequest request;
  EventListener listener;
  uint64_t arrival = 0;     // order of submission; unique
  uint64_t submission = 0;  // the arrival of the first that was submitted with it
  size_t dp_group = 0;      // the data-parallel group that it runs in
  Hash128 cache_root;       // which blocks of the prefix cache it shares
  uint64_t seed = 0;        // the request's, or a fresh one
  std::chrono::steady_clock::time_point submitted;
  double queue_seconds = -1;  // until the first step that computes it; -1 before
  int64_t max_output = 0;     // max_new_tokens, clipped to the context length and the cache's capacity

  std::shared_ptr<MaskTask> mask;  // the next token's; null: the output is not constrained

  int32_t count_slot = -1;  // where its tokens are counted for penalties; -1: nowhere yet

  Phase phase = Phase::waiting;
  bool is_prefilling = false;   // running, and not all of its tokens are computed yet
  std::vector<int32_t> tokens;  // prompt, then output; the last one is never computed when the sequence ends
  int64_t num_prompt = 0;
  int64_t num_computed = 0;  // tokens whose keys and values are in `blocks`
  int32_t sampled_row =
      -1;  // of the last step, its group's row that chooses the next token, while there is one
  int64_t num_committed = 0;    // leading blocks that are shared through the prefix cache
  int64_t num_cached = -1;      // prompt tokens found in the cache at first admission; -1 before it
  std::vector<int32_t> blocks;  // the block table: block i holds positions [i, i + 1) * block_tokens

  int64_t next_prompt_logprob = 0;             // position of the next prompt token to score; num_prompt: done
  std::vector<TokenLogprobs> prompt_logprobs;  // collected until the first event
};

}  // namespace chorale::engine
