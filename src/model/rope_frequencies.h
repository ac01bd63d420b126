// The frequencies of rotary position embeddings, with linear and yarn scaling as transformers computes them.
#pragma once

#include <vector>

#include "io/model_config.h"

namespace chorale::model {

struct RopeFrequencies {
  std::vector<float> values;  // [D / 2], radians per position
  float scale = 1;            // multiplies cosines and sines (yarn's attention factor)
};

RopeFrequencies rope_frequencies(const io::ModelConfig& config);

}  // namespace chorale::model
