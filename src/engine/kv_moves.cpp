#include "engine/kv_moves.h"

#include <algorithm>

#include "base/error.h"
#include "model/kv_cache.h"
#include "parallel/sharding_plan.h"

namespace chorale::engine {
namespace {

// KV heads of the model that a rank has.
parallel::Range kv_heads_of(const io::ModelConfig& config, const ParallelPlan& plan, int rank) {
  const parallel::ShardedSizes sizes = model::sharded_sizes(config);
  return parallel::elements_of_chunks(plan.ranks[static_cast<size_t>(rank)].shard.kv, sizes.kv_heads, sizes);
}

}  // namespace

std::vector<KvHeads> heads_for(int rank, const io::ModelConfig& config, const ParallelPlan& from,
                               const ParallelPlan& to, std::span<const KvBlockMove> moves) {
  const parallel::Range mine = kv_heads_of(config, to, rank);
  const int from_tp = from.strategy.tp_size;
  std::vector<KvHeads> pieces;
  for (const KvBlockMove& move : moves) {
    if (move.to_group != rank / to.strategy.tp_size) continue;
    const int first = move.from_group * from_tp;
    int64_t head = mine.begin;
    for (int r = first; r < first + from_tp && head < mine.end; ++r) {
      const parallel::Range theirs = kv_heads_of(config, from, r);
      if (head < theirs.begin || head >= theirs.end) continue;
      const int64_t end = std::min(mine.end, theirs.end);
      pieces.push_back({.from_rank = r,
                        .from_block = move.from_block,
                        .from_head = head - theirs.begin,
                        .to_block = move.to_block,
                        .to_head = head - mine.begin,
                        .num_heads = end - head});
      head = end;
    }
    CHORALE_CHECK(head == mine.end, "no rank has KV head {}", head);
  }
  return pieces;
}

uint64_t bytes_of_moves(const io::ModelConfig& config, const ParallelPlan& to, DType kv_dtype,
                        DeviceKind device, std::span<const KvBlockMove> moves) {
  uint64_t bytes = 0;
  for (int rank = 0; rank < to.strategy.world(); ++rank) {
    const auto blocks = std::ranges::count(moves, rank / to.strategy.tp_size, &KvBlockMove::to_group);
    bytes += static_cast<uint64_t>(
        blocks * model::KvCache::block_bytes(config, kv_heads_of(config, to, rank).size(), kv_dtype, device));
  }
  return bytes;
}

}  // namespace chorale::engine
