// A step of all data-parallel groups as one row of numbers, to be sent to other processes of the same
// program.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/model_runner.h"

namespace chorale::engine {

// Replaces what is in `message`.
void write_step(std::span<const StepPlan* const> plans, std::vector<int32_t>& message);

// Fills one plan per group. A message that is not one of write_step is a programmer's fault.
void read_step(std::span<const int32_t> message, std::span<StepPlan> plans);

}  // namespace chorale::engine
