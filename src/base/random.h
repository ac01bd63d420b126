// Counter-based random numbers: Philox4x32 with 10 rounds (Salmon et al., "Parallel random numbers: as easy
// as 1, 2, 3", SC'11). A number is a pure function of its key and counter, so it can be drawn in any order,
// by any thread, and again. Thread-safe: there is no state.
#pragma once

#include <array>
#include <cstdint>

namespace chorale {

using PhiloxCounter = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;

// One block of 128 random bits.
std::array<uint32_t, 4> philox4x32(const PhiloxCounter& counter, const PhiloxKey& key);

// 64 random bits for (seed, stream, index): independent for every triple.
uint64_t random_bits(uint64_t seed, uint32_t stream, uint64_t index);

// Uniform in [0, 1) with 53 bits, from random_bits.
double random_uniform(uint64_t seed, uint32_t stream, uint64_t index);

}  // namespace chorale
