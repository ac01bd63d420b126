#include "engine/local_runner.h"

#include <utility>

namespace chorale::engine {

LocalRunner::LocalRunner(Parts parts)
    : vocab_size_(parts.config.vocab_size),
      stream_(parts.stream),
      inputs_(parts.limits),
      cache_(parts.config, parts.weights.embed_tokens.dtype(), parts.num_blocks),
      model_(parts.config, std::move(parts.weights), parts.limits) {
  chunks_.reserve(static_cast<size_t>(parts.limits.max_chunks));
}

std::span<const float> LocalRunner::run_observed(const StepPlan& plan, model::StepObserver* observer) {
  chunks_.clear();
  for (const SequenceChunk& chunk : plan.chunks) {
    chunks_.push_back({.first_token = chunk.first_token,
                       .num_tokens = chunk.num_tokens,
                       .first_position = chunk.first_position,
                       .first_block = chunk.first_block_index});
  }
  const model::StepInputs in = inputs_.upload({.token_ids = plan.token_ids,
                                               .chunks = chunks_,
                                               .block_tables = plan.block_tables,
                                               .logits_tokens = plan.logits_tokens});
  const Tensor logits = model_.forward(stream_, in, cache_, observer);
  stream_.synchronize();
  return {logits.data<float>(), static_cast<size_t>(logits.size())};
}

}  // namespace chorale::engine
