// Scratch memory of a forward pass, made once for the largest step, so that a step allocates nothing.
#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "io/model_config.h"
#include "kernels/expert_matmul.h"
#include "kernels/route.h"
#include "model/step_inputs.h"

namespace chorale::model {

// No two kinds of rows share memory: what pads a row must stay zero. Every tensor has room for max_tokens (T)
// or max_logits_rows (R) rows; a step uses the first ones. "act" is the type of activations, bf16 or float32.
struct Workspace {
  Workspace(const io::ModelConfig& config, DType act, const StepLimits& limits);
  // Bytes that the constructor allocates; pure arithmetic.
  static size_t bytes(const io::ModelConfig& config, DType act, const StepLimits& limits);

  Arena arena;
  Tensor residual;                                          // float32 [T, H]
  Tensor normed;                                            // act [T, H]
  Tensor cos_sin;                                           // float32 [T, D]
  Tensor q, k, v;                                           // float32 [T, Q * D], [T, KV * D]
  Tensor q_rotated;                                         // act [T, Q * D]
  Tensor k_rotated;                                         // act [T, KV * D]
  Tensor attended;                                          // act [T, Q * D]
  Tensor sums;                                              // int64 [T, H + 1]: fixed point
  Tensor router_logits;                                     // float32 [T, E]
  Tensor chosen_experts, chosen_weights;                    // int32 and float32 [T, k]
  Tensor row_offsets, row_active, row_tokens, row_weights;  // of ExpertRows
  Tensor expert_inner;                                      // act [T * k, I of an expert]
  Tensor dense_inner;                                       // act [T, I of a dense layer]
  Tensor last_hidden;                                       // float32 [R, H]
  Tensor last_normed;                                       // act [R, H]
  Tensor logits;                                            // float32 [R, V], rows without padding

  // The views for a step of T tokens.
  ChosenExperts chosen(int64_t num_tokens) const;
  ExpertRows expert_rows() const;
};

}  // namespace chorale::model
