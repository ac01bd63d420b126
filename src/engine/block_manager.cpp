#include "engine/block_manager.h"

#include <limits>

#include "base/error.h"

namespace chorale::engine {

BlockManager::BlockManager(int64_t num_blocks, bool enable_prefix_cache, BlockHasher hasher,
                           int64_t block_tokens, int64_t num_spare)
    : block_tokens_(block_tokens),
      num_spare_(num_spare),
      enable_prefix_cache_(enable_prefix_cache),
      users_(static_cast<size_t>(num_blocks + num_spare), 0),
      cache_(num_blocks + num_spare, hasher, block_tokens) {
  const int64_t all = num_blocks + num_spare;
  CHORALE_CHECK(num_blocks >= 1 && num_spare >= 0 && all <= std::numeric_limits<int32_t>::max(), "{} blocks",
                all);
  free_.reserve(users_.size());
  for (auto block = static_cast<int32_t>(all - 1); block >= 0; --block) free_.push_back(block);
}

int32_t BlockManager::take() {
  if (num_free() == 0) {
    const int32_t evicted = cache_.evict();
    CHORALE_CHECK(evicted != kNoBlock, "no block is available");
    return evicted;
  }
  const int32_t block = free_.back();
  free_.pop_back();
  return block;
}

void BlockManager::add_user(int32_t block) {
  if (users_[static_cast<size_t>(block)]++ == 0) cache_.mark_used(block);
}

void BlockManager::remove_user(int32_t block) {
  int32_t& users = users_[static_cast<size_t>(block)];
  CHORALE_CHECK(users > 0, "block {} is not in use", block);
  if (--users > 0) return;
  if (cache_.contains(block)) {
    cache_.mark_idle(block);
  } else {
    free_.push_back(block);
  }
}

void BlockManager::allocate(int64_t n, std::vector<int32_t>& table) {
  CHORALE_CHECK(num_ahead_ == 0, "{} blocks were taken ahead", num_ahead_);
  CHORALE_CHECK(n <= num_available(), "{} blocks of {} available", n, num_available());
  for (int64_t i = 0; i < n; ++i) {
    const int32_t block = take();
    users_[static_cast<size_t>(block)] = 1;
    table.push_back(block);
  }
}

bool BlockManager::allocate_ahead(std::vector<int32_t>& table) {
  if (num_available() <= num_ahead_ || free_.empty()) return false;
  const int32_t block = free_.back();
  free_.pop_back();
  users_[static_cast<size_t>(block)] = 1;
  table.push_back(block);
  ++num_ahead_;
  return true;
}

// The block that take() would give takes the place of the one that was given.
void BlockManager::confirm_ahead() {
  if (num_free() == 0) free_.push_back(take());
  cancel_ahead();
}

void BlockManager::cancel_ahead() {
  CHORALE_CHECK(num_ahead_ > 0, "no block was taken ahead");
  --num_ahead_;
}

int64_t BlockManager::acquire_prefix(std::span<const int32_t> token_ids, std::vector<int32_t>& table,
                                     const Hash128& root) {
  CHORALE_CHECK(table.empty());
  if (!enable_prefix_cache_) return 0;
  int32_t parent = kNoBlock;
  int64_t found = 0;
  const auto block_tokens = static_cast<size_t>(block_tokens_);
  while (token_ids.size() >= block_tokens) {
    const int32_t block = cache_.find(parent, token_ids.first(block_tokens), root);
    if (block == kNoBlock) break;
    add_user(block);
    table.push_back(block);
    parent = block;
    found += block_tokens_;
    token_ids = token_ids.subspan(block_tokens);
  }
  return found;
}

void BlockManager::commit(std::vector<int32_t>& table, int64_t index, std::span<const int32_t> token_ids,
                          const Hash128& root) {
  if (!enable_prefix_cache_) return;
  int32_t& block = table[static_cast<size_t>(index)];
  const int32_t parent = index == 0 ? kNoBlock : table[static_cast<size_t>(index - 1)];
  const int32_t existing = cache_.find(parent, token_ids, root);
  if (existing == kNoBlock) {
    cache_.insert(parent, block, token_ids, root);
    return;
  }
  // The same tokens at the same positions have the same keys and values, to the bit, so one copy is enough.
  add_user(existing);
  remove_user(block);
  block = existing;
}

void BlockManager::release(std::vector<int32_t>& table) {
  // Children before parents: this is what makes eviction by last use leaf-first.
  while (!table.empty()) release_last(table);
}

void BlockManager::release_last(std::vector<int32_t>& table) {
  remove_user(table.back());
  table.pop_back();
}

void BlockManager::flush() {
  for (int32_t block = cache_.evict(); block != kNoBlock; block = cache_.evict()) free_.push_back(block);
}

void BlockManager::check_invariants(std::span<const std::vector<int32_t>* const> tables) const {
  cache_.check_invariants();
  std::vector<int32_t> users(users_.size(), 0);
  for (const std::vector<int32_t>* table : tables) {
    for (const int32_t block : *table) ++users[static_cast<size_t>(block)];
  }
  CHORALE_CHECK(users == users_, "the users of blocks are not those of the sequences");
  std::vector<bool> free(users_.size(), false);
  for (const int32_t block : free_) {
    CHORALE_CHECK(!free[static_cast<size_t>(block)], "block {} is free twice", block);
    free[static_cast<size_t>(block)] = true;
  }
  for (size_t i = 0; i < users_.size(); ++i) {
    const bool cached = cache_.contains(static_cast<int32_t>(i));
    CHORALE_CHECK(!free[i] || (users_[i] == 0 && !cached), "block {} is free and not free", i);
    CHORALE_CHECK(free[i] || users_[i] > 0 || cached, "block {} is lost", i);
    CHORALE_CHECK(users_[i] <= 1 || cached, "block {} is shared, but not through the cache", i);
  }
}

}  // namespace chorale::engine
