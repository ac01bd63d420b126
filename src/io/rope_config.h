// The rotary position embedding's fields of config.json, in the spellings of transformers 4 (rope_theta and
// rope_scaling) and 5 (rope_parameters).
#pragma once

#include "io/json_fields.h"
#include "io/model_config.h"

namespace chorale::io {

// Sets rope_theta and rope_scaling of `config` from `fields`; max_position_embeddings must be set already.
// Throws Error for what is not supported.
void read_rope(const JsonFields& fields, ModelConfig& config);

}  // namespace chorale::io
