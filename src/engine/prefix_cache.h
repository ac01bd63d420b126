// The index of the automatic prefix cache: full KV blocks, found by the tokens they hold and all tokens
// before them.
//
// An entry is one full block. Its key is a 128-bit hash chained over (the parent entry's hash, its own token
// ids), and a hit is taken only when the parent entry and the token ids are equal as well, so that a
// collision can never give a wrong block. Entries that no sequence uses are `idle` and wait in order of last
// use to be evicted.
//
// The caller (BlockManager) counts users and keeps this invariant: whoever uses an entry uses its parents
// too, and lets go of children first. So a child always becomes idle before its parent, and evicting the
// least recently used entry evicts leaves first. Capacity is fixed; nothing is allocated after construction.
// Not thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/model_runner.h"

namespace chorale::engine {

inline constexpr int32_t kNoBlock = -1;

struct Hash128 {
  uint64_t low = 0;
  uint64_t high = 0;
  friend bool operator==(const Hash128&, const Hash128&) = default;
};

// The hash of a block under its parent's hash ({} for a sequence's first block).
using BlockHasher = Hash128 (*)(const Hash128& parent, std::span<const int32_t> token_ids);
Hash128 hash_block(const Hash128& parent, std::span<const int32_t> token_ids);

// An entry, while it is there.
struct CachedBlock {
  int32_t block = kNoBlock;
  int32_t parent = kNoBlock;
  Hash128 root;
  std::span<const int32_t> token_ids;
};

class PrefixCache {
 public:
  // For block ids in [0, num_blocks). Another hasher is for tests of collisions.
  explicit PrefixCache(int64_t num_blocks, BlockHasher hasher = hash_block,
                       int64_t block_tokens = kBlockTokens);

  // The entry that continues `parent` (kNoBlock: the start of a sequence) with these block_tokens tokens, or
  // kNoBlock. Sequences with different roots share nothing.
  int32_t find(int32_t parent, std::span<const int32_t> token_ids, const Hash128& root = {}) const;
  // Adds an entry, in use. It must not be there yet; the parent must be.
  void insert(int32_t parent, int32_t block, std::span<const int32_t> token_ids, const Hash128& root = {});
  bool contains(int32_t block) const;

  void mark_idle(int32_t block);
  void mark_used(int32_t block);
  int64_t num_idle() const { return num_idle_; }
  // The one that was used last first.
  std::vector<CachedBlock> idle_blocks() const;
  // Removes the least recently used idle entry, a leaf, and returns its block; kNoBlock when none is idle.
  int32_t evict();

  // Aborts the process when an invariant is broken. Linear in the number of blocks.
  void check_invariants() const;

 private:
  struct Entry {
    Hash128 hash;
    Hash128 root;
    int32_t parent = kNoBlock;
    int32_t num_children = 0;
    int32_t next_in_bucket = kNoBlock;
    int32_t older = kNoBlock;  // neighbours in the list of idle entries
    int32_t newer = kNoBlock;
    bool present = false;
    bool idle = false;
  };
  Entry& entry(int32_t block) { return entries_[static_cast<size_t>(block)]; }
  const Entry& entry(int32_t block) const { return entries_[static_cast<size_t>(block)]; }
  Hash128 hash_of(int32_t parent, std::span<const int32_t> token_ids, const Hash128& root) const;
  size_t bucket_of(const Hash128& hash) const { return hash.low & (buckets_.size() - 1); }
  void remove(int32_t block);

  std::span<const int32_t> token_ids_of(int32_t block) const {
    return std::span(token_ids_).subspan(static_cast<size_t>(block) * block_tokens_, block_tokens_);
  }

  BlockHasher hasher_;
  size_t block_tokens_;
  std::vector<Entry> entries_;      // by block id
  std::vector<int32_t> token_ids_;  // [num_blocks, block_tokens]
  std::vector<int32_t> buckets_;    // first entry of each hash bucket; a power of two of them
  int32_t oldest_ = kNoBlock;
  int32_t newest_ = kNoBlock;
  int64_t num_idle_ = 0;
};

}  // namespace chorale::engine
