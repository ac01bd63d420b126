#include "kernels/ref/attention.h"

#include <algorithm>
#include <cmath>

namespace chorale::ref {

Dense<double> attention(const AttentionShape& shape, const Matrix& q, int64_t first_position,
                        const Matrix& keys, const Matrix& values) {
  const int64_t head_dim = shape.head_dim;
  Dense<double> out(q.rows, q.columns);
  for (int64_t row = 0; row < q.rows; ++row) {
    const int64_t visible = first_position + row + 1;
    for (int64_t head = 0; head < shape.num_heads; ++head) {
      const int64_t q_column = head * head_dim;
      const int64_t kv_column = head / (shape.num_heads / shape.num_kv_heads) * head_dim;
      std::vector<double> weights(static_cast<size_t>(visible));
      for (int64_t t = 0; t < visible; ++t) {
        double score = 0;
        for (int64_t d = 0; d < head_dim; ++d)
          score += double{q.at(row, q_column + d)} * double{keys.at(t, kv_column + d)};
        weights[static_cast<size_t>(t)] = score / std::sqrt(static_cast<double>(head_dim));
      }
      const double largest = *std::max_element(weights.begin(), weights.end());
      double sum = 0;
      for (double& w : weights) sum += w = std::exp(w - largest);
      for (int64_t t = 0; t < visible; ++t) {
        for (int64_t d = 0; d < head_dim; ++d)
          out.at(row, q_column + d) +=
              weights[static_cast<size_t>(t)] / sum * double{values.at(t, kv_column + d)};
      }
    }
  }
  return out;
}

}  // namespace chorale::ref
