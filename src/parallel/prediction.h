// What a strategy makes of a whole workload, step by step: when tokens come, and where the time goes. Pure
// arithmetic, without the engine: requests that all arrive at once and all do the same.
#pragma once

#include <cstdint>

#include "parallel/cost_model.h"

namespace chorale::parallel {

struct UniformWorkload {
  int64_t requests = 1;
  int64_t prompt_tokens = 1;  // each request's, from 1 on
  int64_t new_tokens = 1;     // likewise
};

// As the engine plans steps, for each data-parallel group.
struct ScheduleLimits {
  int64_t prompt_tokens_per_step = 512;
  int64_t running_requests = 256;
  int64_t kv_tokens = 0;  // 0: as many as are wanted
};

struct Prediction {
  double seconds = 0;      // from the arrival to the last token
  double output_rate = 0;  // new tokens per second of the whole run
  double prompt_rate = 0;  // prompt tokens per second until the last request's first token
  double first_token_median = 0, first_token_p99 = 0;  // seconds
  double between_median = 0, between_p99 = 0;          // seconds from a token to the next; 0 for one token
  int64_t steps = 0;
  StepCost parts;  // of all steps; adds up to `seconds`

  bool operator==(const Prediction& other) const { return parts.seconds == other.parts.seconds; }
};

// A workload of which more than this many steps would do nothing but prompts is cut to fewer requests; rates
// stay what they are.
inline constexpr int64_t kMostPromptSteps = 4096;

// Throws Error when one request does not fit into the limits, or a number is below 1.
Prediction predict(const CostModel& cost, const UniformWorkload& workload, const ScheduleLimits& limits);

}  // namespace chorale::parallel
