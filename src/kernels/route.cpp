#include "kernels/route.h"

#include <algorithm>

#include "kernels/backend.h"
#include "kernels/dispatch.h"
#include "kernels/tensor_checks.h"

namespace chorale {
namespace {

void check_choice(const Tensor& logits, const RouteOptions& options, const ChosenExperts& chosen) {
  CHORALE_CHECK(logits.dtype() == DType::f32 && options.top_k >= 1 && options.top_k <= logits.columns(),
                "top {} of {} experts", options.top_k, logits.columns());
  check_matrix(chosen.experts, DType::i32, logits.rows(), options.top_k, "chosen experts");
  check_matrix(chosen.weights, DType::f32, logits.rows(), options.top_k, "chosen weights");
}

void check_sorted(const ChosenExperts& chosen, const ExpertRows& rows) {
  // A token's experts differ, so no more of them can be here than there are.
  const int64_t pairs =
      chosen.experts.rows() * std::min(chosen.experts.columns(), rows.offsets.columns() - 1);
  check_matrix(chosen.weights, DType::f32, chosen.experts.rows(), chosen.experts.columns(), "chosen weights");
  check_vector(rows.offsets, DType::i32, 1, "offsets");
  check_matrix(rows.active, DType::i32, 1, rows.offsets.columns(), "active");
  check_vector(rows.tokens, DType::i32, pairs, "tokens");
  check_vector(rows.weights, DType::f32, pairs, "weights");
}

}  // namespace

void choose_experts(const Stream& stream, const Tensor& logits, const RouteOptions& options,
                    const ChosenExperts& chosen) {
  const OpScope scope(stream.profile(), "choose_experts");
  check_choice(logits, options, chosen);
  backend_of(stream).choose_experts(stream, logits, options, chosen);
}

void sort_by_expert(const Stream& stream, const ChosenExperts& chosen, const ExpertRows& rows,
                    const Tensor& counts) {
  const OpScope scope(stream.profile(), "sort_by_expert");
  check_sorted(chosen, rows);
  if (!counts.empty()) check_vector(counts, DType::i64, counts.columns(), "counts");
  backend_of(stream).sort_by_expert(stream, chosen, rows, counts);
}

void route(const Stream& stream, const Tensor& logits, const RouteOptions& options,
           const ChosenExperts& chosen, const ExpertRows& rows, const Tensor& counts) {
  const Backend& backend = backend_of(stream);
  if (backend.route == nullptr) {
    choose_experts(stream, logits, options, chosen);
    count_experts(stream, chosen.experts, counts);
    return sort_by_expert(stream, chosen, rows);
  }
  const OpScope scope(stream.profile(), "route");
  check_choice(logits, options, chosen);
  check_sorted(chosen, rows);
  check_matrix(counts, DType::i64, 1, logits.columns(), "counts");
  backend.route(stream, logits, options, chosen, rows, counts);
}

}  // namespace chorale
