#include "base/random.h"

namespace chorale {
double random_uniform(uint64_t seed, uint32_t stream, uint64_t index) {
  return static_cast<double>(random_bits(seed, stream, index) >> 11) * 0x1p-53;
}

}  // namespace chorale
