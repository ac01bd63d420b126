#include "server/generation/live_requests.h"

#include <utility>

namespace chorale::server {

LiveRequests::Ticket::Ticket(LiveRequests& live, std::string id, std::string public_id, std::string holder)
    : live_(live), id_(std::move(id)) {
  const std::lock_guard lock(live_.mutex_);
  live_.entries_.insert({id_, {.public_id = std::move(public_id), .holder = std::move(holder)}});
}

bool LiveRequests::Ticket::is_cancelled() const {
  const std::lock_guard lock(live_.mutex_);
  return live_.entries_.at(id_).is_cancelled;
}

LiveRequests::Ticket::~Ticket() {
  const std::lock_guard lock(live_.mutex_);
  live_.entries_.erase(id_);
  live_.changed_.notify_all();  // under the lock: the waiter may destroy this object once it sees the change
}

std::vector<std::string> LiveRequests::ids() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> ids;
  for (const auto& [id, entry] : entries_) ids.push_back(id);
  return ids;
}

std::vector<std::string> LiveRequests::cancel(const std::optional<std::string>& public_id,
                                              const std::string& holder) {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> ids;
  for (auto& [id, entry] : entries_) {
    if (entry.holder != holder) continue;
    if (public_id && entry.public_id != *public_id) continue;
    entry.is_cancelled = true;
    ids.push_back(id);
  }
  return ids;
}

void LiveRequests::wait_empty() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return entries_.empty(); });
}

}  // namespace chorale::server
