// The engine requests of this server that are not over, so that a drain can wait for them and end what is
// left.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace chorale::server {

// Thread-safe. Tickets may outlive the moment their request ends, but not this object.
class LiveRequests {
 public:
  // Held by a request's listener: registered from construction to destruction.
  class Ticket {
   public:
    Ticket(LiveRequests& live, std::string id);
    ~Ticket();
    Ticket(const Ticket&) = delete;
    Ticket& operator=(const Ticket&) = delete;

   private:
    LiveRequests& live_;
    std::string id_;
  };

  std::vector<std::string> ids() const;
  bool empty() const;
  void wait_empty();

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::set<std::string> ids_;
};

}  // namespace chorale::server
