// The tensors that a weight X.weight of a model is stored in, in whichever form a checkpoint has it.
//
//   plain   X.weight [N, K] or [N], bf16, f16 or f32
//
//   fp8     X.weight [N, K] float8_e4m3, X.weight_scale_inv [ceil(N / R), ceil(K / C)];
//           value = weight * scale_inv
//
//   gptq    X.qweight i32 [K / 8, N]: a word has 8 successive inputs of one output, the first in the lowest
//           bits; X.qzeros i32 [G, N / 8], X.scales [G, N], X.g_idx i32 [K], the group of each input
//
//   awq     X.qweight i32 [K, N / 8]: a word has 8 outputs of one input, lowest bits
//           first in the order 0 2 4 6 1 3 5 7; X.qzeros i32 [G, N / 8] alike, X.scales [G, N]
//
// where blocks of R x C and groups of inputs, G = ceil(K / group size), are as config.json says, and an int4
// value is scale * (q - zero).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "io/checkpoint.h"
#include "io/quantization_config.h"

namespace chorale::io {

// The tensors that a weight is stored in, found by name alone and not yet checked.
struct LinearTensors {
  enum class Form { plain, fp8, gptq, awq };
  Form form = Form::plain;
  const TensorEntry* weight = nullptr;  // or qweight
  const TensorEntry* scales = nullptr;  // or weight_scale_inv
  const TensorEntry* zeros = nullptr;
  const TensorEntry* groups = nullptr;  // g_idx; may be absent

  std::array<const TensorEntry*, 4> all() const { return {weight, scales, zeros, groups}; }  // with nullptr
  uint64_t bytes() const;
};

// `name` is that of a plain checkpoint, as in "model.layers.0.self_attn.q_proj.weight".
LinearTensors find_linear(const Checkpoint& checkpoint, const QuantizationConfig& config,
                          std::string_view name);

// "X" of "X.weight"; other names as they are.
std::string module_of(std::string_view name);

// Parameters that the model has in the tensor: none in scales, zeros and group indices, eight in a word.
int64_t parameters_of(const TensorEntry& tensor, const QuantizationConfig& config);

// Whether the tensor is the bias of zeros that some GPTQ checkpoints have beside each matrix, although the
// model has no biases.
bool is_unused_bias(const Checkpoint& checkpoint, const QuantizationConfig& config,
                    const TensorEntry& tensor);

}  // namespace chorale::io
