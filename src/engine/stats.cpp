#include "engine/stats.h"

#include "base/error.h"

namespace chorale::engine {

EngineStats initial_stats(const EngineOptions& options, int64_t num_dp_groups) {
  EngineStats stats;
  stats.kv_tokens_total = num_dp_groups * options.max_total_tokens;
  return stats;
}

void count_finished(FinishReason reason, EngineStats& stats) {
  switch (reason) {
    case FinishReason::none:
      CHORALE_CHECK(false, "a sequence needs a reason to finish");
      break;
    case FinishReason::stop:
      ++stats.finished_stop;
      break;
    case FinishReason::length:
      ++stats.finished_length;
      break;
    case FinishReason::aborted:
      ++stats.finished_aborted;
      break;
    case FinishReason::error:
      ++stats.finished_error;
      break;
  }
}

}  // namespace chorale::engine
