// How many tokens a model's vocabulary may have.
#pragma once

#include <cstdint>

namespace chorale::io {

// Four times the largest vocabularies in use, and what sampling has room for: config.json is refused beyond
// it, so that nothing later has to.
inline constexpr int64_t kMaxVocabSize = int64_t{1} << 20;

}  // namespace chorale::io
