#include "server/http/id_source.h"

#include <random>

#include <fmt/format.h>

namespace chorale::server {
namespace {

std::string random_hex() {
  std::random_device device;
  return fmt::format("{:08x}{:08x}", device(), device());
}

}  // namespace

std::string secret_id(std::string_view prefix) {
  return fmt::format("{}{}{}", prefix, random_hex(), random_hex());
}

IdSource::IdSource() : base_(random_hex()) {}

std::string IdSource::next(std::string_view prefix) {
  return fmt::format("{}{}{:08x}", prefix, base_, next_++);
}

}  // namespace chorale::server
