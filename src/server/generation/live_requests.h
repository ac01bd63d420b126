// The engine requests of this server that are not over, so that a drain can wait for them and end what is
// left, and a client can end its own.
#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace chorale::server {

// Thread-safe. Tickets may outlive the moment their request ends, but not this object.
class LiveRequests {
 public:
  // Held by a request's listener: registered from construction to destruction.
  class Ticket {
   public:
    // `public_id`: what the client knows it by; several requests may share one. `holder`: whose it is.
    Ticket(LiveRequests& live, std::string id, std::string public_id, std::string holder = "");
    ~Ticket();
    Ticket(const Ticket&) = delete;
    Ticket& operator=(const Ticket&) = delete;

    // A client has asked for the end.
    bool is_cancelled() const;

   private:
    LiveRequests& live_;
    std::string id_;
  };

  std::vector<std::string> ids() const;
  // Marks the holder's requests of that public id, or all of them (nullopt), as cancelled; returns their ids,
  // for the engine.
  std::vector<std::string> cancel(const std::optional<std::string>& public_id, const std::string& holder);
  void wait_empty();

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  struct Entry {
    std::string public_id;
    std::string holder;
    bool is_cancelled = false;
  };
  std::map<std::string, Entry> entries_;  // by engine id
};

}  // namespace chorale::server
