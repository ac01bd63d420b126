// A digest of 64 bits, to tell whether two processes have the same bytes: quick, and no defence against
// anybody who wants two texts to be taken for one. For that there is base/sha256.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace chorale {

// A value. What is added counts in its pieces: "ab" and "c" are not "a" and "bc".
class Digest {
 public:
  void add(std::span<const std::byte> bytes);
  void add(std::string_view text) { add(std::as_bytes(std::span(text))); }
  void add(uint64_t number) { mix(number); }

  uint64_t value() const;
  std::string text() const;  // 16 hexadecimal digits

 private:
  void mix(uint64_t word);

  uint64_t state_ = 0x9E3779B97F4A7C15U;
};

}  // namespace chorale
