// What io/linear_source.h demands of a checkpoint's tensors before it reads them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "io/linear_tensors.h"

namespace chorale::io {

// Throws Error that names the file and the tensor unless all tensors of the weight are there, with the dtypes
// and shapes that its form, config.json's quantization_config and the weight's own shape ask for.
void check_linear(const Checkpoint& checkpoint, const QuantizationConfig& config,
                  const LinearTensors& tensors, std::string_view name, std::span<const int64_t> shape);

// config.json's, or all inputs.
int64_t group_size_of(const QuantizationConfig& config, int64_t columns);

// The contents of g_idx, checked; empty when there is none or the group of each input k is k / group_size.
std::vector<int32_t> groups_out_of_order(const Checkpoint& checkpoint, const LinearTensors& tensors,
                                         int64_t group_size);

}  // namespace chorale::io
