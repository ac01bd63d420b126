// Chooses each token's experts, and sorts the (token, expert) pairs by expert.
#pragma once

#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/expert_matmul.h"

namespace chorale {

struct RouteOptions {
  int64_t top_k = 0;
  bool normalize = false;  // norm_topk_prob: divide the k weights by their sum
};

// The experts of each token, most likely first.
struct ChosenExperts {
  Tensor experts;  // int32 [T, k]
  Tensor weights;  // float32 [T, k]
};

// Softmax over the E logits of each token, then the k most likely experts; of equal ones the lower comes
// first. logits: float32 [T, E]. A token with a NaN logit gets some k experts with NaN weights.
void choose_experts(const Stream& stream, const Tensor& logits, const RouteOptions& options,
                    const ChosenExperts& chosen);

// Counts and sorts the pairs; an expert below 0 is one of another rank, and left out. E is
// rows.offsets.columns() - 1, and rows.tokens and rows.weights have room for
// T * min(k, E). counts: int64 [1, n], of which the sum is how many of the tokens are there; empty: all.
void sort_by_expert(const Stream& stream, const ChosenExperts& chosen, const ExpertRows& rows,
                    const Tensor& counts = {});

// choose_experts, count_experts (dispatch.h) and sort_by_expert, where all experts are here. counts: int64
// [1, E].
void route(const Stream& stream, const Tensor& logits, const RouteOptions& options,
           const ChosenExperts& chosen, const ExpertRows& rows, const Tensor& counts);

}  // namespace chorale
