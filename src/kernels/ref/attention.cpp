#include "kernels/ref/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

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
          out.at(row, q_column + d) += weights[static_cast<size_t>(t)] * double{values.at(t, kv_column + d)};
      }
      for (int64_t d = 0; d < head_dim; ++d) out.at(row, q_column + d) /= sum;
    }
  }
  return out;
}

QuantizedHeads quantize_heads(const Matrix& heads, int64_t head_dim) {
  QuantizedHeads out{Dense<int8_t>(heads.rows, heads.columns), Matrix(heads.rows, heads.columns / head_dim)};
  for (int64_t row = 0; row < heads.rows; ++row) {
    for (int64_t head = 0; head < out.scales.columns; ++head) {
      const int64_t begin = head * head_dim;
      float largest = 0;
      bool finite = true;
      for (int64_t c = begin; c < begin + head_dim; ++c) {
        largest = std::max(largest, std::fabs(heads.at(row, c)));
        finite &= std::isfinite(heads.at(row, c));
      }
      if (!finite || largest < 0x1p-100F) {  // zeros
        out.scales.at(row, head) = finite ? 0.0F : std::numeric_limits<float>::quiet_NaN();
        continue;
      }
      out.scales.at(row, head) = largest / 127.0F;
      for (int64_t c = begin; c < begin + head_dim; ++c)
        out.values.at(row, c) = static_cast<int8_t>(std::nearbyint(heads.at(row, c) * (127.0F / largest)));
    }
  }
  return out;
}

}  // namespace chorale::ref
