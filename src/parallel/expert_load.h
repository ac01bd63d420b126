// How many tokens went to each expert, as a server records it.
#pragma once

#include <string_view>

#include "parallel/eplb.h"

namespace chorale::parallel {

// `logical_count` of a JSON object: [num_layers][num_experts] tokens; other fields are ignored. Throws Error
// that begins with `source` and tells the field, what was expected and what was found.
LoadRows read_expert_load(std::string_view text, std::string_view source, int num_layers, int num_experts);

}  // namespace chorale::parallel
