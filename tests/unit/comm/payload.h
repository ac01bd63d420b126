// Data that tells where it comes from: every byte and value depends on its sender, receiver, index and round,
// so whatever lands in the wrong place shows. All ranks draw the same shapes from the same seeds.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace chorale::comm::conformance {

inline uint64_t mix(uint64_t x) {  // splitmix64
  x += 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

// Who sends to whom; `to` is 0 where everyone gets the same.
struct Origin {
  int from = 0;
  int to = 0;
  int round = 0;
};

inline int64_t value_of(const Origin& o, size_t index) {
  const uint64_t origin = mix(static_cast<uint64_t>(o.from) << 40 | static_cast<uint64_t>(o.to) << 20 |
                              static_cast<uint64_t>(o.round));
  return static_cast<int64_t>(mix(origin ^ index));
}

inline std::vector<int64_t> values(const Origin& o, size_t n) {
  std::vector<int64_t> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = value_of(o, i);
  return out;
}

inline std::vector<std::byte> bytes(const Origin& o, size_t n) {
  std::vector<std::byte> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<std::byte>(value_of(o, i));
  return out;
}

template <typename T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

// The sums over the senders 0 to ranks - 1, which wrap around.
inline std::vector<int64_t> sums(int ranks, int round, size_t n) {
  std::vector<int64_t> out(n);
  for (int r = 0; r < ranks; ++r)
    for (size_t i = 0; i < n; ++i)
      out[i] = static_cast<int64_t>(static_cast<uint64_t>(out[i]) +
                                    static_cast<uint64_t>(value_of({.from = r, .round = round}, i)));
  return out;
}

// An output buffer with room before and after it that nobody may write to.
template <typename T>
class Guarded {
 public:
  explicit Guarded(size_t n) : memory_(n + 2 * kGuard, T{kMark}) {}
  std::span<T> span() { return std::span(memory_).subspan(kGuard, memory_.size() - 2 * kGuard); }

  // Whether the first values are these, and everything else is as it was.
  void expect(const std::vector<T>& expected, const std::string& where) const {
    std::vector<T> whole(kGuard, T{kMark});
    append(whole, expected);
    whole.resize(memory_.size(), T{kMark});
    if (memory_ == whole) return;
    const auto [got, want] = std::mismatch(memory_.begin(), memory_.end(), whole.begin());
    ADD_FAILURE() << where << ": differs at " << got - memory_.begin() - static_cast<ptrdiff_t>(kGuard)
                  << " of " << expected.size();
  }

 private:
  static constexpr size_t kGuard = 16;
  static constexpr unsigned char kMark = 0xA5;
  std::vector<T> memory_;
};

// Shapes: the same on all ranks for the same seed.
class Draw {
 public:
  explicit Draw(uint64_t seed) : state_(seed) {}
  size_t below(size_t n) { return mix(state_++) % n; }
  // One size for each rank; about a third of them are zero.
  std::vector<int64_t> sizes(int ranks, size_t most) {
    std::vector<int64_t> out(static_cast<size_t>(ranks));
    for (int64_t& size : out) size = below(3) == 0 ? 0 : static_cast<int64_t>(below(most + 1));
    return out;
  }

 private:
  uint64_t state_;
};

inline size_t total(std::span<const int64_t> sizes) {
  return static_cast<size_t>(std::accumulate(sizes.begin(), sizes.end(), int64_t{0}));
}

}  // namespace chorale::comm::conformance
