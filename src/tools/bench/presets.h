// Shapes of models for benchmarks: configurations without weights.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "io/model_config.h"

namespace chorale::bench {

std::vector<std::string> preset_names();

// Throws Error that names the preset and those there are.
io::ModelConfig preset(std::string_view name);

}  // namespace chorale::bench
