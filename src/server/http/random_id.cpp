#include "server/http/random_id.h"

#include <cstdint>
#include <random>

#include <fmt/format.h>

namespace chorale::server {

std::string random_id(std::string_view prefix) {
  thread_local std::random_device device;
  const auto word = [] { return uint32_t{device()}; };
  const uint32_t first = word();
  const uint32_t second = word();
  const uint32_t third = word();
  return fmt::format("{}{:08x}{:08x}{:08x}{:08x}", prefix, first, second, third, word());
}

}  // namespace chorale::server
