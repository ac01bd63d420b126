#include "kernels/ref/route.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace chorale::ref {

Choice choose_experts(const Matrix& logits, int64_t top_k, bool normalize) {
  Choice choice{Dense<int32_t>(logits.rows, top_k), Dense<double>(logits.rows, top_k)};
  for (int64_t t = 0; t < logits.rows; ++t) {
    std::vector<int32_t> order(static_cast<size_t>(logits.columns));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return logits.at(t, a) > logits.at(t, b); });
    const double largest = logits.at(t, order[0]);
    double sum = 0;
    for (int64_t e = 0; e < logits.columns; ++e) sum += std::exp(logits.at(t, e) - largest);
    double chosen = 0;
    for (int64_t i = 0; i < top_k; ++i) {
      const int32_t expert = order[static_cast<size_t>(i)];
      choice.experts.at(t, i) = expert;
      choice.weights.at(t, i) = std::exp(logits.at(t, expert) - largest) / sum;
      chosen += choice.weights.at(t, i);
    }
    for (int64_t i = 0; normalize && i < top_k; ++i) choice.weights.at(t, i) /= chosen;
  }
  return choice;
}

std::vector<ExpertRow> sort_by_expert(const Dense<int32_t>& experts, const Matrix& weights) {
  std::vector<ExpertRow> rows;
  for (int64_t t = 0; t < experts.rows; ++t) {
    for (int64_t i = 0; i < experts.columns; ++i) rows.push_back({t, experts.at(t, i), weights.at(t, i)});
  }
  std::stable_sort(rows.begin(), rows.end(),
                   [](const ExpertRow& a, const ExpertRow& b) { return a.expert < b.expert; });
  return rows;
}

}  // namespace chorale::ref
