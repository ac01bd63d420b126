#include "engine/rank_runner.h"

#include <utility>

namespace chorale::engine {

RankRunner::RankRunner(Parts parts)
    : pool_(parts.num_threads),
      stream_(pool_, parts.isa, parts.profile),
      inputs_(parts.limits, parts.part.extent.tp_size, parts.part.extent.tp_rank),
      cache_(parts.config, parts.part.extent.kv_heads, parts.kv_dtype, parts.num_blocks),
      model_({.config = parts.config,
              .weights = std::move(parts.weights),
              .limits = parts.limits,
              .extent = parts.part.extent,
              .groups = std::move(parts.groups),
              .expert_slots = parts.part.expert_slots}) {
  segments_.reserve(static_cast<size_t>(parts.limits.max_segments));
}

Tensor RankRunner::run(const StepPlan& plan, model::StepObserver* observer) {
  segments_.clear();
  for (const SequenceChunk& chunk : plan.chunks) {
    segments_.push_back({.first_token = chunk.first_token,
                         .num_tokens = chunk.num_tokens,
                         .first_position = chunk.first_position,
                         .first_block = chunk.first_block_index});
  }
  const model::StepInputs in = inputs_.upload({.token_ids = plan.token_ids,
                                               .segments = segments_,
                                               .block_tables = plan.block_tables,
                                               .logits_tokens = plan.logits_tokens});
  const Tensor logits = model_.forward(stream_, in, cache_, observer);
  stream_.synchronize();
  return logits;
}

void RankRunner::add_expert_load(std::vector<int64_t>& total) const {
  const Tensor load = model_.expert_load();
  total.resize(static_cast<size_t>(load.size()));
  size_t i = 0;
  for (int64_t l = 0; l < load.rows(); ++l) {
    for (int64_t e = 0; e < load.columns(); ++e) total[i++] += load.row<int64_t>(l)[e];
  }
}

}  // namespace chorale::engine
