#include "server/live_requests.h"

#include <utility>

namespace chorale::server {

LiveRequests::Ticket::Ticket(LiveRequests& live, std::string id) : live_(live), id_(std::move(id)) {
  const std::lock_guard lock(live_.mutex_);
  live_.ids_.insert(id_);
}

LiveRequests::Ticket::~Ticket() {
  const std::lock_guard lock(live_.mutex_);
  live_.ids_.erase(id_);
  live_.changed_.notify_all();  // under the lock: the waiter may destroy this object once it sees the change
}

std::vector<std::string> LiveRequests::ids() const {
  const std::lock_guard lock(mutex_);
  return {ids_.begin(), ids_.end()};
}

bool LiveRequests::empty() const {
  const std::lock_guard lock(mutex_);
  return ids_.empty();
}

void LiveRequests::wait_empty() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return ids_.empty(); });
}

}  // namespace chorale::server
