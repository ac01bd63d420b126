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

}  // namespace chorale::server
