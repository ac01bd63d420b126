#include "kernels/route.h"

#include <algorithm>

#include "kernels/backend.h"
#include "kernels/tensor_checks.h"

namespace chorale {

void choose_experts(const Stream& stream, const Tensor& logits, const RouteOptions& options,
                    const ChosenExperts& chosen) {
  const OpScope scope(stream.profile(), "choose_experts");
  CHORALE_CHECK(logits.dtype() == DType::f32 && options.top_k >= 1 && options.top_k <= logits.columns(),
                "top {} of {} experts", options.top_k, logits.columns());
  check_matrix(chosen.experts, DType::i32, logits.rows(), options.top_k, "chosen experts");
  check_matrix(chosen.weights, DType::f32, logits.rows(), options.top_k, "chosen weights");
  backend_of(stream).choose_experts(stream, logits, options, chosen);
}

void sort_by_expert(const Stream& stream, const ChosenExperts& chosen, const ExpertRows& rows) {
  const OpScope scope(stream.profile(), "sort_by_expert");
  // A token's experts differ, so no more of them can be here than there are.
  const int64_t pairs =
      chosen.experts.rows() * std::min(chosen.experts.columns(), rows.offsets.columns() - 1);
  check_matrix(chosen.weights, DType::f32, chosen.experts.rows(), chosen.experts.columns(), "chosen weights");
  check_vector(rows.offsets, DType::i32, 1, "offsets");
  check_matrix(rows.active, DType::i32, 1, rows.offsets.columns(), "active");
  check_vector(rows.tokens, DType::i32, pairs, "tokens");
  check_vector(rows.weights, DType::f32, pairs, "weights");
  backend_of(stream).sort_by_expert(stream, chosen, rows);
}

}  // namespace chorale
