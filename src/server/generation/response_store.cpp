#include "server/generation/response_store.h"

#include <utility>

namespace chorale::server {
namespace {

constexpr size_t kMaxBytes = size_t{256} << 20;  // of all texts together

size_t size_of(const StoredResponse& stored) {
  return to_text(stored.response).size() + to_text(stored.input_items).size() +
         to_text(stored.messages).size();
}

}  // namespace

void ResponseStore::put(const std::string& id, StoredResponse response, bool is_new) {
  const size_t bytes = size_of(response);
  const std::lock_guard lock(mutex_);
  const auto known = entries_.find(id);
  if ((known == entries_.end()) != is_new || most_ == 0) return;
  if (is_new) order_.push_back(id);
  Entry& entry = entries_[id];
  bytes_ += bytes - entry.bytes;
  entry = {std::move(response), bytes};
  while (!order_.empty() && (entries_.size() > most_ || bytes_ > kMaxBytes)) {
    const std::string oldest = std::move(order_.front());
    order_.pop_front();
    drop(oldest);
  }
}

std::optional<StoredResponse> ResponseStore::find(const std::string& id, const std::string& holder) const {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second.stored.holder != holder) return std::nullopt;
  return found->second.stored;
}

bool ResponseStore::remove(const std::string& id, const std::string& holder) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second.stored.holder != holder) return false;
  drop(id);
  std::erase(order_, id);
  return true;
}

void ResponseStore::drop(const std::string& id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  bytes_ -= found->second.bytes;
  entries_.erase(found);
}

}  // namespace chorale::server
