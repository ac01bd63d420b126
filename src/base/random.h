// Counter-based random numbers: Philox4x32 with 10 rounds (Salmon et al., "Parallel random numbers: as easy
// as 1, 2, 3", SC'11). A number is a pure function of its key and counter, so it can be drawn in any order,
// by any thread, and again. Thread-safe: there is no state. Kernels of a GPU draw the same ones.
#pragma once

#include <array>
#include <cstdint>

namespace chorale {

using PhiloxCounter = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;

// One block of 128 random bits.
constexpr std::array<uint32_t, 4> philox4x32(const PhiloxCounter& counter, const PhiloxKey& key) {
  constexpr int kRounds = 10;
  constexpr uint32_t kMultiplier0 = 0xD2511F53;
  constexpr uint32_t kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9;  // golden ratio
  constexpr uint32_t kWeyl1 = 0xBB67AE85;  // sqrt(3) - 1
  PhiloxCounter c = counter;
  PhiloxKey k = key;
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = uint64_t{kMultiplier0} * c[0];
    const uint64_t product1 = uint64_t{kMultiplier1} * c[2];
    c = {static_cast<uint32_t>(product1 >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(product0)};
    k = {k[0] + kWeyl0, k[1] + kWeyl1};
  }
  return c;
}

// 64 random bits for (seed, stream, index): independent for every triple.
constexpr uint64_t random_bits(uint64_t seed, uint32_t stream, uint64_t index) {
  const auto block = philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), stream, 0},
                                {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return (uint64_t{block[1]} << 32) | block[0];
}

// Uniform in [0, 1) with 53 bits, from random_bits.
double random_uniform(uint64_t seed, uint32_t stream, uint64_t index);

}  // namespace chorale
