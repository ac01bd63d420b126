// Models of random weights for a calibration, and steps of them.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/op_profile.h"
#include "engine/loaded_model.h"

namespace chorale::calibrate {

struct SmallModel {
  int64_t hidden = 1024;
  int64_t layers = 1;
  int64_t heads = 8;
  int64_t head_dim = 128;
  int64_t expert_intermediate = 128;
  int64_t vocab = 2048;
  int64_t context = 1024;
};

struct LoadedSmallModel {
  SmallModel shape;
  engine::LoadedModel model;
};

// One expert a layer. threads: 0 for all cores; dp_size ranks, each with a batch of its own. `profile`, where
// there is one, gets the first rank's ops.
LoadedSmallModel load_small_model(const SmallModel& shape, const std::string& instruction_set, int dp_size,
                                  int threads, int64_t rows, OpProfile* profile);

// Seconds of a step of every group: so many sequences, with so many new tokens each, after `first_position`
// tokens. Sampled at temperature 1.
double time_step(LoadedSmallModel& loaded, int64_t sequences, int64_t tokens_each, int64_t first_position);

// The sum of an op's records.
struct OpTotal {
  double seconds = 0;
  double bytes = 0;
  double operations = 0;
  int64_t calls = 0;
};
std::map<std::string, OpTotal> totals(const OpProfile& profile);

}  // namespace chorale::calibrate
