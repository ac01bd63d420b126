// How fast a model computes on this machine, beside what the machine could do at most, measured in the same
// run and by turns with the work.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/op_profile.h"
#include "engine/loaded_model.h"
#include "tools/bench/floor.h"

namespace chorale::bench {

struct ModelBenchOptions {
  int64_t prompt_tokens = 512;
  int64_t prompts = 1;                         // of each data-parallel group in one prefill step
  int64_t decode_tokens = 64;                  // steps of each batch size
  std::vector<int64_t> batches{1, 4, 16, 32};  // sequences that decode together, of each data-parallel group
  int repeats = 5;                             // prefills
  std::function<void(const std::string&)> on_progress;
};

// The middle and the ends of some measurements; 0 of none.
struct Spread {
  double median = 0, low = 0, high = 0;
};
Spread spread_of(std::vector<double> values);

// One kind of step.
struct StepResult {
  std::string phase;  // "prefill" or "decode"
  int64_t sequences = 1;
  int64_t tokens = 0;        // a step's, in all data-parallel groups together
  Spread tokens_per_second;  // the median is what is compared
  OpWork floor;              // a step's
  Ceilings ceilings;         // measured between these steps
  double fraction = 0;       // part of the ceiling reached: floor_seconds() over the median step's seconds
  bool bound_by_memory = false;
  std::vector<OpRecord> ops;  // what one more step did, when the model has a profile
};

// The options with which a model must be loaded so that run_model_bench() finds room.
void make_room(const ModelBenchOptions& options, engine::LoadOptions& load);

// Runs on the driver. Decoding sequences have a cache of prompt_tokens that nobody has filled: the time does
// not depend on what is in it. The profile, where there is one, must be the model's.
std::vector<StepResult> run_model_bench(engine::LoadedModel& model, const ModelBenchOptions& options,
                                        OpProfile* profile);

}  // namespace chorale::bench
