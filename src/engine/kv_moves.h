// Which rank's keys and values go to which other rank when blocks move from the caches of one strategy to
// those of another. Pure arithmetic, the same on every rank.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/device.h"
#include "base/dtype.h"
#include "engine/model_runner.h"
#include "engine/parallel_plan.h"
#include "io/model_config.h"

namespace chorale::engine {

// Some heads of a block, in all layers. Heads are counted on the rank that has them.
struct KvHeads {
  int from_rank = 0;
  int64_t from_block = 0;
  int64_t from_head = 0;
  int64_t to_block = 0;
  int64_t to_head = 0;
  int64_t num_heads = 0;
};

// What a rank of `to` takes for these moves, in their order: each head from a rank of `from` that has it; of
// several that have the same, from the first.
std::vector<KvHeads> heads_for(int rank, const io::ModelConfig& config, const ParallelPlan& from,
                               const ParallelPlan& to, std::span<const KvBlockMove> moves);

// Bytes that all ranks of `to` write for these moves.
uint64_t bytes_of_moves(const io::ModelConfig& config, const ParallelPlan& to, DType kv_dtype,
                        DeviceKind device, std::span<const KvBlockMove> moves);

}  // namespace chorale::engine
