// Who holds which KV block. A block is free, in use by one or more sequences, or cached: used by none, but
// kept in the prefix cache until its room is needed.
//
// Sequences share full blocks only, and only through the prefix cache; the block a sequence is writing is its
// own. Capacity is fixed; nothing is allocated after construction. Not thread-safe.
//
// A step that is planned ahead (scheduler.h) takes its blocks early, when it is not known yet which sequences
// have ended: allocate_ahead(). These do not count as taken until confirm_ahead(), the moment at which a
// planner that does not plan ahead would take them, so that what is evicted, and when, is the same. Spare
// blocks, which count as nobody's, let that be even when no other is free.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/prefix_cache.h"

namespace chorale::engine {

class BlockManager {
 public:
  BlockManager(int64_t num_blocks, bool enable_prefix_cache, BlockHasher hasher = hash_block,
               int64_t block_tokens = kBlockTokens, int64_t num_spare = 0);

  int64_t block_tokens() const { return block_tokens_; }
  bool prefix_cache_enabled() const { return enable_prefix_cache_; }
  int64_t num_blocks() const { return static_cast<int64_t>(users_.size()) - num_spare_; }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()) + num_ahead_ - num_spare_; }
  int64_t num_cached() const { return cache_.num_idle(); }
  int64_t num_used() const { return num_blocks() - num_free() - num_cached(); }
  // Blocks that allocate() can still give: free ones, and cached ones by eviction.
  int64_t num_available() const { return num_free() + num_cached(); }

  // Appends n fresh blocks, each with one user, to the table. n must not exceed num_available().
  void allocate(int64_t n, std::vector<int32_t>& table);

  // Appends one block, unless there is none to confirm it with later, or none is free or spare.
  bool allocate_ahead(std::vector<int32_t>& table);
  // What one allocate_ahead() gave counts as taken from now on; or it does not, and was released.
  void confirm_ahead();
  void cancel_ahead();

  // Appends the longest chain of cached blocks with that root that holds a prefix of the tokens, and becomes
  // a user of each. Returns the tokens found: a multiple of block_tokens(), at most token_ids.size(). The
  // table must be empty.
  int64_t acquire_prefix(std::span<const int32_t> token_ids, std::vector<int32_t>& table,
                         const Hash128& root = {});

  // Makes table[index], which now holds these block_tokens() tokens, shareable. The blocks before it must
  // have been committed. When an equal block is in the cache already, the table gets that one and lets go of
  // its own.
  void commit(std::vector<int32_t>& table, int64_t index, std::span<const int32_t> token_ids,
              const Hash128& root = {});

  // Lets go of all blocks of the table, and clears it; of the last one. Committed blocks stay cached.
  void release(std::vector<int32_t>& table);
  void release_last(std::vector<int32_t>& table);

  // Blocks that the prefix cache alone has, those that were used last first, and so parents before children.
  std::vector<CachedBlock> idle_blocks() const { return cache_.idle_blocks(); }

  // Frees every cached block.
  void flush();

  // Aborts the process when an invariant is broken: every block is in exactly one state, and the users of
  // blocks are those of the given tables.
  void check_invariants(std::span<const std::vector<int32_t>* const> tables) const;

 private:
  int32_t take();
  void add_user(int32_t block);
  void remove_user(int32_t block);

  int64_t block_tokens_;
  int64_t num_spare_;
  int64_t num_ahead_ = 0;  // given by allocate_ahead(), and neither confirmed nor cancelled
  bool enable_prefix_cache_;
  std::vector<int32_t> users_;  // by block id
  std::vector<int32_t> free_;   // a stack; spare ones are among them
  PrefixCache cache_;
};

}  // namespace chorale::engine
