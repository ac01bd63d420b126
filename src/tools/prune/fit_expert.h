// Fits one dense expert to what a layer of experts does: silu(X gate^T) * (X up^T) down^T ~ T.
//
//   1. W neurons (a row of gate and of up each) are chosen out of candidates by orthogonal matching pursuit
//   on
//      their activations, and the down projection is the ridge regression on them.
//   2. Adam (arXiv 1412.6980) on gate, up and down alone, with a cosine learning rate.
//   3. With the loss on the output alone: the closed form once more for the down projection.
//
// Two losses for step 2. `output` is the squared error over the target's variance. `logits` adds to a part of
// it the divergence of the model's predictions when the error e = Y - T of this layer alone reaches the last
// layer's output h along the residual stream: KL(softmax(head(h)) || softmax(head(h + e))), in nats. It says
// which errors matter: those of directions and tokens that the predictions depend on.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/gemm.h"

namespace chorale::tools {

// The weights behind the last layer, and what they made of the original model's output h.
struct LogitsTarget {
  Tensor final_hidden;    // float32 [M, H]: h, the residual stream after the last layer
  Tensor expected_heads;  // float32 [M, H]: softmax(head(h)) * lm_head, the mean row of lm_head
  Tensor norm;            // float32 [1, H]
  float rms_norm_eps = 0;
  int64_t vocab_size = 0;
  const PackedRhs* lm_head_by_vocab = nullptr;   // lm_head^T: [H, V]
  const PackedRhs* lm_head_by_hidden = nullptr;  // lm_head: [V, H]
};

struct FitProblem {
  Tensor inputs;                          // float32 [M, H]: X
  Tensor targets;                         // float32 [M, H]: T
  Tensor candidate_gates, candidate_ups;  // float32 [C, H], C >= width
  const LogitsTarget* logits = nullptr;   // null: the loss is on the output alone
};

inline constexpr int64_t kFitSteps = 500;  // default of --fit-steps

struct FitOptions {
  int64_t width = 0;  // W
  int64_t steps = kFitSteps;
  float learning_rate = 2e-3F;
  int64_t batch_tokens = 8192;
  uint64_t seed = 0;
  uint32_t stream = 0;            // the stream of random numbers: another for each layer
  std::function<void()> on_step;  // after each step; what it throws ends the work
};

struct FittedExpert {
  std::vector<float> gate;    // [W, H]
  std::vector<float> up;      // [W, H]
  std::vector<float> down;    // [H, W]
  double relative_error = 0;  // |Y - T|^2 / |T|^2 over all tokens
};

// Deterministic; independent of the number of threads. Throws Error when activations are not finite.
FittedExpert fit_expert(const Stream& stream, const FitProblem& problem, const FitOptions& options);

}  // namespace chorale::tools
