// One expert in place of all experts of a layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/dtype.h"
#include "io/checkpoint.h"
#include "io/model_config.h"
#include "tools/prune/expert_scores.h"

namespace chorale::tools {

// Row-major bytes in the dtype of MergedExperts; H is hidden_size, W the width.
struct MergedExpert {
  std::vector<std::byte> router;  // [1, H]
  std::vector<std::byte> gate;    // [W, H]
  std::vector<std::byte> up;      // [W, H]
  std::vector<std::byte> down;    // [H, W]
};

struct MergedExperts {
  int64_t width = 0;         // the new moe_intermediate_size
  DType dtype = DType::f32;  // bf16, f16 or f32
  // Makes the expert of a sparse layer. Called once for each, from the first layer to the last.
  std::function<MergedExpert(int64_t layer)> make;
};

// The values in bf16, f16 or f32, each rounded once, to nearest even.
std::vector<std::byte> encode(std::span<const double> values, DType dtype);
std::vector<std::byte> encode(std::span<const float> values, DType dtype);

// The dtype of the experts in the checkpoint (of expert 0 of the first sparse layer), for MergedExperts.
// `source` must have passed model::check_tensors for `config`, which must have a sparse layer.
DType expert_dtype(const io::Checkpoint& source, const io::ModelConfig& config);

// The mean of all experts of each layer, and of their router rows, weighted by the tokens of each (equally
// where a layer has seen none), summed in double precision from expert 0 on. Reads one layer at a time and
// drops its pages. `source` as above; it and `config` must outlive what is returned. `scores` has an entry
// per layer; a copy is kept.
MergedExperts average_experts(const io::Checkpoint& source, const io::ModelConfig& config,
                              std::span<const ExpertScores> scores);

}  // namespace chorale::tools
