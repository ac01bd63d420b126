#include "base/digest.h"

#include <bit>
#include <cstring>

#include <fmt/format.h>

namespace chorale {

// Nothing is lost in any of these, and no bit stays alone: the upper ones are brought down first, for
// multiplication carries upwards only. Else a bit of one word could undo one of the word before.
void Digest::mix(uint64_t word) {
  uint64_t state = state_ ^ word;
  state ^= state >> 32;
  state_ = std::rotl(state * 0xD6E8FEB86659FD93U, 29);
}

void Digest::add(std::span<const std::byte> bytes) {
  mix(bytes.size());
  while (bytes.size() >= sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data(), sizeof word);
    mix(word);
    bytes = bytes.subspan(sizeof word);
  }
  if (bytes.empty()) return;
  uint64_t word = 0;
  std::memcpy(&word, bytes.data(), bytes.size());
  mix(word);
}

uint64_t Digest::value() const {
  uint64_t value = state_;
  value = (value ^ (value >> 32)) * 0xD6E8FEB86659FD93U;
  value = (value ^ (value >> 32)) * 0xD6E8FEB86659FD93U;
  return value ^ (value >> 32);
}

std::string Digest::text() const {
  return fmt::format("{:016x}", value());
}

}  // namespace chorale
