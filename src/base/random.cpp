#include "base/random.h"

namespace chorale {
namespace {

constexpr int kRounds = 10;
constexpr uint32_t kMultiplier0 = 0xD2511F53;
constexpr uint32_t kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9;  // golden ratio
constexpr uint32_t kWeyl1 = 0xBB67AE85;  // sqrt(3) - 1

constexpr uint32_t high(uint64_t x) {
  return static_cast<uint32_t>(x >> 32);
}
constexpr uint32_t low(uint64_t x) {
  return static_cast<uint32_t>(x);
}

}  // namespace

std::array<uint32_t, 4> philox4x32(const PhiloxCounter& counter, const PhiloxKey& key) {
  PhiloxCounter c = counter;
  PhiloxKey k = key;
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = uint64_t{kMultiplier0} * c[0];
    const uint64_t product1 = uint64_t{kMultiplier1} * c[2];
    c = {high(product1) ^ c[1] ^ k[0], low(product1), high(product0) ^ c[3] ^ k[1], low(product0)};
    k = {k[0] + kWeyl0, k[1] + kWeyl1};
  }
  return c;
}

uint64_t random_bits(uint64_t seed, uint32_t stream, uint64_t index) {
  const auto block = philox4x32({low(index), high(index), stream, 0}, {low(seed), high(seed)});
  return (uint64_t{block[1]} << 32) | block[0];
}

double random_uniform(uint64_t seed, uint32_t stream, uint64_t index) {
  return static_cast<double>(random_bits(seed, stream, index) >> 11) * 0x1p-53;
}

}  // namespace chorale
