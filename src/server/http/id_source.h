// Ids by which requests are known in answers and logs.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

namespace chorale::server {

// Thread-safe.
class IdSource {
 public:
  IdSource();

  // Unique in this process and, by its random part, most likely anywhere.
  std::string next(std::string_view prefix);

 private:
  const std::string base_;
  std::atomic<uint32_t> next_{0};
};

// One that nobody can guess who knows others: of what a client may ask for by its id. Thread-safe.
std::string secret_id(std::string_view prefix);

}  // namespace chorale::server
