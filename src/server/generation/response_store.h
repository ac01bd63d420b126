// What /v1/responses keeps of its answers, so that a client can go on with one, ask for it, or cancel it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "server/wire/json_body.h"

namespace chorale::server {

struct StoredResponse {
  std::string holder;  // who alone may know of it, as RequestContext::response_holder
  Json response;       // as the client is told it
  Json input_items;    // of its request alone
  Json messages;       // the whole conversation, in the form of chat templates; null while it runs
};

// Thread-safe. In memory, bounded in number and in bytes: the oldest ones go first.
class ResponseStore {
 public:
  // most = 0: nothing is kept.
  explicit ResponseStore(size_t most) : most_(most) {}

  // Adds it, or takes the place of the one of that id. What was taken out meanwhile is not put back:
  // `is_new` tells which it is.
  void put(const std::string& id, StoredResponse response, bool is_new);
  // nullopt: the holder has none of that id.
  std::optional<StoredResponse> find(const std::string& id, const std::string& holder) const;
  // False: likewise.
  bool remove(const std::string& id, const std::string& holder);

  bool keeps_any() const { return most_ > 0; }

 private:
  struct Entry {
    StoredResponse stored;
    size_t bytes = 0;
  };
  void drop(const std::string& id);  // under the lock

  const size_t most_;
  mutable std::mutex mutex_;
  std::map<std::string, Entry> entries_;
  std::deque<std::string> order_;  // oldest first; may hold ids that are gone
  size_t bytes_ = 0;
};

}  // namespace chorale::server
