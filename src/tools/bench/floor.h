// The least that a step must do, from the shapes alone: each byte of the weights and of the KV cache that it
// needs is read once, and each product is computed once. Pure arithmetic.
#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "base/op_profile.h"
#include "io/model_config.h"
#include "model/weights.h"

namespace chorale::bench {

// Bytes of the stored weights, by where they are used.
struct WeightBytes {
  double layers = 0;      // all layers', without experts
  double per_expert = 0;  // one expert of one layer
  double head = 0;
};
// As the plan of a whole model stores them.
WeightBytes weight_bytes(const io::ModelConfig& config, const model::WeightPlan& plan);

struct StepShape {
  int64_t sequences = 1;
  int64_t tokens_each = 1;     // new tokens of each sequence
  int64_t first_position = 0;  // tokens of each sequence that are in the cache already
  int64_t logits_rows = 1;
  double touched_experts = 0;  // (layer, expert) pairs that got a token
};

// kv_dtype: of the KV cache; int8 has scales beside the values.
OpWork step_floor(const io::ModelConfig& config, const WeightBytes& weights, DType kv_dtype,
                  const StepShape& shape);

struct Ceilings {
  double read_bandwidth = 0;   // bytes per second
  double peak_operations = 0;  // per second
};

// Seconds that the work takes at least: reading and computing may overlap.
double floor_seconds(const OpWork& work, const Ceilings& ceilings);
bool is_bound_by_memory(const OpWork& work, const Ceilings& ceilings);

}  // namespace chorale::bench
