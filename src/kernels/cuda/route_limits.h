// What routing on a GPU has room for.
#pragma once

namespace chorale::cuda {

inline constexpr int kMaxRoutedExperts = 1024;  // E
inline constexpr int kMaxRoutedTopK = 32;       // k: a thread of a warp each

}  // namespace chorale::cuda
