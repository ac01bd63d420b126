// Which stream of base/random.h each choice of a load is drawn from, so that one does not change another.
#pragma once

#include <cstdint>

namespace chorale::bench_serve {

inline constexpr uint32_t kArrivalStream = 0;
inline constexpr uint32_t kPromptLengthStream = 1;
inline constexpr uint32_t kOutputLengthStream = 2;
inline constexpr uint32_t kShuffleStream = 3;
inline constexpr uint32_t kFirstPromptStream = 16;  // request r's prompt is drawn from stream r + this

}  // namespace chorale::bench_serve
