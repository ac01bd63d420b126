// Reference of kernels/route.h.
#pragma once

#include <vector>

#include "kernels/ref/dense.h"
#include "kernels/ref/expert_matmul.h"

namespace chorale::ref {

struct Choice {
  Dense<int32_t> experts;  // [T, k], most likely first
  Dense<double> weights;   // [T, k]
};

// Softmax over each row of logits, then the top_k largest, of equal ones the lower first; normalize divides
// the k weights by their sum. Logits are not NaN.
Choice choose_experts(const Matrix& logits, int64_t top_k, bool normalize);

// The (token, expert) pairs of experts [T, k] and weights [T, k], by expert and then by token.
std::vector<ExpertRow> sort_by_expert(const Dense<int32_t>& experts, const Matrix& weights);

}  // namespace chorale::ref
