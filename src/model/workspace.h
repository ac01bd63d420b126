// Scratch memory of a forward pass on one rank, made once for the largest step, so that a step allocates
// nothing.
#pragma once

#include <cstdint>

#include "base/tensor.h"
#include "io/model_config.h"
#include "kernels/dispatch.h"
#include "kernels/expert_matmul.h"
#include "kernels/route.h"
#include "model/rank_plan.h"
#include "model/step_inputs.h"
#include "model/weights.h"

namespace chorale::model {

// A step uses the first rows of each. The letters are those of kernels/shapes.h; "act" is the type of
// activations. No two kinds of rows share memory: what pads a row must stay zero.
struct Workspace {
  Workspace(const io::ModelConfig& config, const WeightFormats& formats, const StepLimits& limits,
            const RankExtent& extent, Device device);
  // Bytes that the constructor allocates; pure arithmetic.
  static size_t bytes(const io::ModelConfig& config, const WeightFormats& formats, const StepLimits& limits,
                      const RankExtent& extent);

  Arena arena;
  Tensor residual;     // float32 [U, H]
  Tensor normed;       // act [U, H]
  Tensor gathered;     // act [T, H]; only with several ranks in the group
  Tensor cos_sin;      // float32 [T, D]
  Tensor q, k, v;      // float32 [T, Q * D], [T, KV * D]
  Tensor q_rotated;    // act [T, Q * D]
  Tensor k_rotated;    // act [T, KV * D]
  Tensor attended;     // act [T, Q * D]
  Tensor attention;    // float32 [1, .]: scratch, of backends that want it
  Tensor sums;         // int64 [T, H + 1]: fixed point
  Tensor home_sums;    // int64 [U, H + 1]
  Tensor dense_inner;  // act [T, I]
  Tensor partials;     // float32 [1, .]: of PartialSums, of backends that want it
  // Only with quantized weights: rows of any of the above, and of the inner activations of experts, as
  // quantize.h says.
  Tensor quantized;        // uint8 [T, R or L, bytes]
  Tensor quantized_inner;  // uint8 [T or R * k, bytes]

  Tensor router_logits;                                     // float32 [U, E of the model]
  Tensor chosen_experts, chosen_weights;                    // int32 and float32 [U, k]
  Tensor row_offsets, row_active, row_tokens, row_weights;  // ExpertRows over R rows
  Tensor expert_inner;                                      // act [R * k, I]
  // Only when tokens travel:
  Tensor owner_tokens;                  // int32 [owners, U]
  Tensor sent_counts, received_counts;  // int64 [1, ranks of the expert group]: rows of a dispatch
  Tensor sent_tokens;                   // int32 [1, S]
  Tensor send_rows;                     // uint8 [S, row]
  Tensor received_rows;                 // uint8 [R, row]
  Tensor received_sums;                 // int64 [R, H + 1]
  Tensor returned_sums;                 // int64 [S, H + 1]

  Tensor last_hidden;      // float32 [L, H]
  Tensor last_normed;      // act [L, H]
  Tensor last_gathered;    // act [L, H]; only with several ranks in the group
  Tensor part_logits;      // float32 [L, V part]; likewise
  Tensor gathered_logits;  // float32 [ranks * L, V part]; likewise, on the first of them
  Tensor logits;           // float32 [L, V], rows without padding; on the first rank of the group

  ChosenExperts chosen(int64_t num_tokens) const;
  ExpertRows expert_rows() const;
};

// Rows that travel to experts.
RowFormat row_format(const io::ModelConfig& config, DType act);

}  // namespace chorale::model
