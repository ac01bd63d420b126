#include "engine/runner_switch.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/math.h"
#include "engine/admission.h"

namespace chorale::engine {

EngineOptions options_for(EngineOptions options, int64_t logits_rows, int64_t max_total_tokens,
                          const ModelRunner& runner) {
  const int64_t longest = std::min(options.max_context_len, options.max_total_tokens);
  if (max_total_tokens < longest) {
    throw Error(fmt::format("a KV cache of {} tokens in each group has no room for a request of {}",
                            max_total_tokens, longest));
  }
  const int64_t running = ceil_div(options.max_running_requests, runner.num_dp_groups());
  options.max_total_tokens = max_total_tokens;
  options.max_logits_rows = logits_rows == 0 ? 0 : std::max(logits_rows, running);
  options.eplb.enabled &= runner.movable_experts() != nullptr;
  return checked_options(std::move(options), runner);
}

std::unique_ptr<StepPlanner> switch_planner(const StepPlanner& planner, ModelRunner& from, ModelRunner& to,
                                            const EngineOptions& options, SwitchResult& result) {
  auto next = std::make_unique<StepPlanner>(options, to.num_dp_groups());
  const StepPlanner::Takeover takeover = next->take_over(planner);
  try {
    result.moved_bytes = to.copy_kv(from, takeover.moves);
  } catch (...) {
    StepPlanner::undo(takeover);
    throw;
  }
  result.moved_blocks = std::ssize(takeover.moves);
  result.moved_sequences = takeover.num_running;
  result.recomputed_sequences = takeover.num_recomputed;
  return next;
}

}  // namespace chorale::engine
