// Arithmetic on EngineStats.
#pragma once

#include <cstdint>

#include "engine/engine.h"

namespace chorale::engine {

EngineStats initial_stats(const EngineOptions& options, int64_t num_dp_groups);

// A sequence that has ended.
void count_finished(FinishReason reason, EngineStats& stats);

}  // namespace chorale::engine
