// One sequence through a model, alone and without the scheduler: what offline tools need.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "engine/model_runner.h"

namespace chorale::tools {

// Gets the logits [num_tokens, vocab_size] of the tokens from first_token on; valid during the call.
using LogitsConsumer = std::function<void(int64_t first_token, std::span<const float> logits)>;

// Runs `token_ids` as a new sequence in prefill chunks of `chunk_size` (>= 1) and hands over the logits of
// every token, chunk by chunk. The sequence uses the KV blocks from 0 on, over whatever they held. Throws
// Error for an id outside the vocabulary. The KV cache must have room for the sequence, and the runner for
// chunk_size logits.
void run_sequence(engine::ModelRunner& runner, std::span<const int32_t> token_ids, int64_t chunk_size,
                  const LogitsConsumer& consume);

}  // namespace chorale::tools
