// route.h on the CPU.
#include "kernels/route.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/cpu/ops.h"

namespace chorale::cpu {
namespace {

// The most likely expert that is not among the `count` chosen already; of equal ones the lowest. NaN is never
// more likely than anything, so a row of NaN gives the lowest experts.
int32_t next_expert(const float* logits, int64_t num_experts, const int32_t* chosen, int64_t count) {
  int32_t best = -1;
  for (int32_t e = 0; e < num_experts; ++e) {
    if (best >= 0 && !(logits[e] > logits[best])) continue;
    if (std::find(chosen, chosen + count, e) == chosen + count) best = e;
  }
  return best;
}

void choose_for_token(const float* logits, int64_t num_experts, const RouteOptions& options, int32_t* experts,
                      float* weights) {
  const float largest = *std::max_element(logits, logits + num_experts);
  double sum = 0;
  for (int64_t e = 0; e < num_experts; ++e) sum += std::exp(double{logits[e]} - largest);
  double chosen_sum = 0;
  for (int64_t i = 0; i < options.top_k; ++i) {
    experts[i] = next_expert(logits, num_experts, experts, i);
    weights[i] = static_cast<float>(std::exp(double{logits[experts[i]]} - largest) / sum);
    chosen_sum += weights[i];
  }
  if (!options.normalize) return;
  for (int64_t i = 0; i < options.top_k; ++i) weights[i] = static_cast<float>(weights[i] / chosen_sum);
}

}  // namespace

void choose_experts(const Stream& stream, const Tensor& logits, const RouteOptions& options,
                    const ChosenExperts& chosen) {
  stream.pool().parallel(logits.rows(), [&](int64_t t) {
    choose_for_token(logits.row<float>(t), logits.columns(), options, chosen.experts.row<int32_t>(t),
                     chosen.weights.row<float>(t));
  });
}

// A counting sort. Tokens are walked in order, so an expert's rows are in order of tokens.
void sort_by_expert(const Stream&, const ChosenExperts& chosen, const ExpertRows& rows,
                    const Tensor& counts) {
  const int64_t num_experts = rows.offsets.columns() - 1;
  int64_t num_tokens = chosen.experts.rows();
  if (!counts.empty()) {
    const auto* count = counts.data<int64_t>();
    num_tokens = std::min(num_tokens, std::accumulate(count, count + counts.columns(), int64_t{0}));
  }
  const int64_t top_k = chosen.experts.columns();
  auto* offsets = rows.offsets.data<int32_t>();
  auto* active = rows.active.data<int32_t>();
  std::fill(offsets, offsets + num_experts + 1, 0);
  for (int64_t t = 0; t < num_tokens; ++t) {
    const int32_t* experts = chosen.experts.row<int32_t>(t);
    for (int64_t i = 0; i < top_k; ++i) {
      if (experts[i] < 0) continue;
      CHORALE_CHECK(experts[i] < num_experts, "expert {} of {}", experts[i], num_experts);
      ++offsets[experts[i] + 1];
    }
  }
  active[0] = 0;
  for (int32_t e = 0; e < num_experts; ++e) {
    if (offsets[e + 1] > 0) active[1 + active[0]++] = e;
    offsets[e + 1] += offsets[e];
  }
  // offsets[e] runs through expert e's rows, and ends where e + 1 begins.
  for (int64_t t = 0; t < num_tokens; ++t) {
    for (int64_t i = 0; i < top_k; ++i) {
      const int32_t expert = chosen.experts.row<int32_t>(t)[i];
      if (expert < 0) continue;
      const int32_t row = offsets[expert]++;
      rows.tokens.data<int32_t>()[row] = static_cast<int32_t>(t);
      rows.weights.data<float>()[row] = chosen.weights.row<float>(t)[i];
    }
  }
  for (int64_t e = num_experts; e > 0; --e) offsets[e] = offsets[e - 1];
  offsets[0] = 0;
}

}  // namespace chorale::cpu
