// What the engine keeps by data-parallel group, brought from one runner to another between two steps.
#pragma once

#include <memory>

#include "engine/engine.h"
#include "engine/model_runner.h"
#include "engine/step_planner.h"

namespace chorale::engine {

// The options for a runner with groups of another number and capacity. `logits_rows`: max_logits_rows as it
// was given. Throws Error.
EngineOptions options_for(EngineOptions options, int64_t logits_rows, int64_t max_total_tokens,
                          const ModelRunner& runner);

// A planner for `to` that has taken over all of `planner`, with the keys and values copied from the caches of
// `from`. Fills in what was moved. Throws Error, after which all is as it was before.
std::unique_ptr<StepPlanner> switch_planner(const StepPlanner& planner, ModelRunner& from, ModelRunner& to,
                                            const EngineOptions& options, SwitchResult& result);

}  // namespace chorale::engine
