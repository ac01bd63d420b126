#include "engine/prefix_cache.h"

#include <algorithm>
#include <bit>

#include "base/error.h"

namespace chorale::engine {
namespace {

// The finalizer of SplitMix64 (Steele, Lea, Flood, OOPSLA'14): a bijection that spreads every bit.
constexpr uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace

Hash128 hash_block(const Hash128& parent, std::span<const int32_t> token_ids) {
  uint64_t low = parent.low ^ 0x9e3779b97f4a7c15;
  uint64_t high = parent.high ^ 0xc2b2ae3d27d4eb4f;
  for (const int32_t token : token_ids) {
    const uint64_t word = static_cast<uint32_t>(token);
    low = mix(low + word + 1);
    high = mix((high ^ (word * 0xff51afd7ed558ccd)) + low);
  }
  return {low, high};
}

PrefixCache::PrefixCache(int64_t num_blocks, BlockHasher hasher, int64_t block_tokens)
    : hasher_(hasher),
      block_tokens_(static_cast<size_t>(block_tokens)),
      entries_(static_cast<size_t>(num_blocks)),
      token_ids_(entries_.size() * block_tokens_),
      buckets_(std::bit_ceil(static_cast<size_t>(std::max<int64_t>(num_blocks, 1)) * 2), kNoBlock) {}

Hash128 PrefixCache::hash_of(int32_t parent, std::span<const int32_t> token_ids, const Hash128& root) const {
  return hasher_(parent == kNoBlock ? root : entry(parent).hash, token_ids);
}

int32_t PrefixCache::find(int32_t parent, std::span<const int32_t> token_ids, const Hash128& root) const {
  CHORALE_CHECK(token_ids.size() == block_tokens_);
  const Hash128 hash = hash_of(parent, token_ids, root);
  for (int32_t block = buckets_[bucket_of(hash)]; block != kNoBlock; block = entry(block).next_in_bucket) {
    const Entry& e = entry(block);
    if (e.hash == hash && e.parent == parent && e.root == root &&
        std::ranges::equal(token_ids_of(block), token_ids)) {
      return block;
    }
  }
  return kNoBlock;
}

void PrefixCache::insert(int32_t parent, int32_t block, std::span<const int32_t> token_ids,
                         const Hash128& root) {
  CHORALE_CHECK(token_ids.size() == block_tokens_);
  CHORALE_CHECK(!contains(block), "block {}", block);
  CHORALE_CHECK(parent == kNoBlock || contains(parent), "parent block {}", parent);
  Entry& e = entry(block);
  e.hash = hash_of(parent, token_ids, root);
  e.root = root;
  std::ranges::copy(token_ids, token_ids_.begin() + block * static_cast<int64_t>(block_tokens_));
  e.parent = parent;
  e.num_children = 0;
  e.present = true;
  e.idle = false;
  int32_t& bucket = buckets_[bucket_of(e.hash)];
  e.next_in_bucket = bucket;
  bucket = block;
  if (parent != kNoBlock) ++entry(parent).num_children;
}

bool PrefixCache::contains(int32_t block) const {
  return entry(block).present;
}

void PrefixCache::mark_idle(int32_t block) {
  Entry& e = entry(block);
  CHORALE_CHECK(e.present && !e.idle, "block {}", block);
  e.idle = true;
  e.older = newest_;
  e.newer = kNoBlock;
  (newest_ == kNoBlock ? oldest_ : entry(newest_).newer) = block;
  newest_ = block;
  ++num_idle_;
}

void PrefixCache::mark_used(int32_t block) {
  Entry& e = entry(block);
  CHORALE_CHECK(e.present && e.idle, "block {}", block);
  e.idle = false;
  (e.older == kNoBlock ? oldest_ : entry(e.older).newer) = e.newer;
  (e.newer == kNoBlock ? newest_ : entry(e.newer).older) = e.older;
  --num_idle_;
}

int32_t PrefixCache::evict() {
  const int32_t block = oldest_;
  if (block == kNoBlock) return kNoBlock;
  mark_used(block);
  remove(block);
  return block;
}

std::vector<CachedBlock> PrefixCache::idle_blocks() const {
  std::vector<CachedBlock> blocks;
  blocks.reserve(static_cast<size_t>(num_idle_));
  for (int32_t block = newest_; block != kNoBlock; block = entry(block).older) {
    blocks.push_back({block, entry(block).parent, entry(block).root, token_ids_of(block)});
  }
  return blocks;
}

void PrefixCache::remove(int32_t block) {
  Entry& e = entry(block);
  CHORALE_CHECK(e.num_children == 0, "block {} has {} children", block, e.num_children);
  int32_t* link = &buckets_[bucket_of(e.hash)];
  while (*link != block) link = &entry(*link).next_in_bucket;
  *link = e.next_in_bucket;
  if (e.parent != kNoBlock) --entry(e.parent).num_children;
  e.present = false;
}

void PrefixCache::check_invariants() const {
  const auto size = static_cast<int32_t>(entries_.size());
  std::vector<int32_t> children(entries_.size(), 0);
  int64_t idle = 0;
  for (int32_t block = 0; block < size; ++block) {
    const Entry& e = entry(block);
    if (!e.present) continue;
    idle += e.idle ? 1 : 0;
    CHORALE_CHECK(find(e.parent, token_ids_of(block), e.root) == block, "block {} is not found by its key",
                  block);
    if (e.parent == kNoBlock) continue;
    CHORALE_CHECK(contains(e.parent), "block {} outlived its parent {}", block, e.parent);
    CHORALE_CHECK(e.idle || !entry(e.parent).idle, "block {} is in use, its parent {} is not", block,
                  e.parent);
    ++children[static_cast<size_t>(e.parent)];
  }
  CHORALE_CHECK(idle == num_idle_, "{} idle entries, {} counted", idle, num_idle_);
  std::vector<bool> seen(entries_.size(), false);
  int64_t listed = 0;
  for (int32_t block = oldest_; block != kNoBlock; block = entry(block).newer, ++listed) {
    const Entry& e = entry(block);
    CHORALE_CHECK(e.present && e.idle && listed < idle, "block {} in the idle list", block);
    CHORALE_CHECK(e.parent == kNoBlock || !seen[static_cast<size_t>(e.parent)],
                  "parent {} would go before {}", e.parent, block);
    seen[static_cast<size_t>(block)] = true;
  }
  CHORALE_CHECK(listed == idle, "{} idle entries, {} listed", idle, listed);
  for (int32_t block = 0; block < size; ++block) {
    if (!entry(block).present) continue;
    CHORALE_CHECK(children[static_cast<size_t>(block)] == entry(block).num_children, "block {}", block);
  }
}

}  // namespace chorale::engine
