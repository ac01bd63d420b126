#include "kernels/ref/tensor_core.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "kernels/cuda/float_math.h"
#include "kernels/ref/fixed_point.h"

namespace chorale::ref {
namespace {

constexpr int kBlock = 16;
constexpr int kFractionBits = 25;  // below the largest exponent
constexpr int kMinExponent = -126;

// significand * 2^(exponent - bits), with 1 <= |significand| * 2^-bits < 2 for normal values.
struct Parts {
  int64_t significand = 0;
  int exponent = 0;
};
Parts split(float value, int bits) {
  if (value == 0) return {0, kMinExponent};
  int exponent = 0;
  const float fraction = std::frexp(value, &exponent);  // [0.5, 1)
  const int normal = std::max(exponent - 1, kMinExponent);
  return {static_cast<int64_t>(std::ldexp(double{fraction}, exponent - normal + bits)), normal};
}

// magnitude * 2^scale, rounded toward zero to float32.
float toward_zero(int64_t sum, int scale) {
  if (sum == 0) return 0;
  const auto exact = std::ldexp(static_cast<double>(sum), scale);  // fewer than 53 bits
  auto rounded = static_cast<float>(exact);
  if (std::fabs(double{rounded}) > std::fabs(exact)) rounded = std::nextafter(rounded, 0.0F);
  return rounded;
}

constexpr int64_t kAttentionBlock = 64;

// What a block of tokens gives for one head of one query.
struct BlockResult {
  float maximum = 0;
  float sum = 0;
  std::vector<float> out;
};

struct Head {
  const Matrix& q;
  const Matrix& keys;
  const Matrix& values;
  int64_t head_dim;
  int64_t q_column;
  int64_t kv_column;
  const Exp2& exp2;
};

BlockResult attend_to_block(const Head& head, int64_t row, int64_t first_token, int64_t visible) {
  const auto dim = static_cast<size_t>(head.head_dim);
  const float scale = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(head.head_dim)));
  std::vector<float> scores(static_cast<size_t>(visible));
  float largest = -std::numeric_limits<float>::infinity();
  for (int64_t t = 0; t < visible; ++t) {
    float score = 0;
    for (size_t d = 0; d < dim; d += kBlock) {
      const size_t count = std::min<size_t>(kBlock, dim - d);
      const auto column = static_cast<int64_t>(d);
      score = tensor_core_add(score, {&head.q.at(row, head.q_column + column), count},
                              {&head.keys.at(first_token + t, head.kv_column + column), count});
    }
    scores[static_cast<size_t>(t)] = score;
    largest = std::max(largest, score);
  }
  BlockResult result{std::ceil(largest * scale), 0, std::vector<float>(dim)};
  for (float& score : scores) score = std::fma(score, scale, -result.maximum);
  head.exp2(scores);
  // Four threads sum 16 probabilities each, two neighbours in turn; then pairs.
  std::array<float, 4> sums{};
  std::vector<float> rounded(kAttentionBlock);
  for (size_t t = 0; t < scores.size(); ++t) {
    const float p = scores[t];
    sums[t / 2 % 4] += p;
    rounded[t] = to_float(to_bf16(p));
  }
  result.sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  for (size_t d = 0; d < dim; ++d) {
    std::vector<float> column(kAttentionBlock);
    for (int64_t t = 0; t < kAttentionBlock && first_token + t < head.values.rows; ++t)
      column[static_cast<size_t>(t)] =
          head.values.at(first_token + t, head.kv_column + static_cast<int64_t>(d));
    float sum = 0;
    for (size_t t = 0; t < kAttentionBlock; t += kBlock)
      sum = tensor_core_add(sum, {&rounded[t], kBlock}, {&column[t], kBlock});
    result.out[d] = sum;
  }
  return result;
}

void merge(BlockResult& total, const BlockResult& block) {
  const float maximum = std::max(total.maximum, block.maximum);
  const float old_scale = cuda::exp2_of_negative_integer(total.maximum - maximum);
  const float new_scale = cuda::exp2_of_negative_integer(block.maximum - maximum);
  total.maximum = maximum;
  total.sum = std::fma(block.sum, new_scale, total.sum * old_scale);
  for (size_t d = 0; d < total.out.size(); ++d)
    total.out[d] = std::fma(block.out[d], new_scale, total.out[d] * old_scale);
}

// The plain rule of IEEE for terms that are not finite.
float add_special(float accumulator, std::span<const float> a, std::span<const float> b) {
  double sum = accumulator;
  for (size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * double{b[i]};
  return static_cast<float>(sum);
}

}  // namespace

float tensor_core_add(float accumulator, std::span<const float> a, std::span<const float> b) {
  bool finite = std::isfinite(accumulator);
  for (size_t i = 0; i < a.size(); ++i) finite &= std::isfinite(a[i]) && std::isfinite(b[i]);
  if (!finite) return add_special(accumulator, a, b);

  // Significands with 14 fractional bits for products of 8-bit significands, 23 for the accumulator.
  std::array<Parts, kBlock + 1> terms;
  std::array<int, kBlock + 1> bits{};
  terms[0] = split(accumulator, 23);
  bits[0] = 23;
  int largest = terms[0].exponent;
  for (size_t i = 0; i < a.size(); ++i) {
    const Parts x = split(a[i], 7), y = split(b[i], 7);
    terms[i + 1] = {x.significand * y.significand, x.exponent + y.exponent};
    bits[i + 1] = 14;
    if (terms[i + 1].significand != 0) largest = std::max(largest, terms[i + 1].exponent);
  }
  int64_t sum = 0;
  for (size_t i = 0; i <= a.size(); ++i) {
    // In units of 2^(largest - 25): to the left by what is missing, to the right by what is cut.
    const int shift = kFractionBits - bits[i] - (largest - terms[i].exponent);
    const int64_t magnitude = std::abs(terms[i].significand);
    const int64_t cut = shift >= 0 ? magnitude << shift : shift > -62 ? magnitude >> -shift : 0;
    sum += terms[i].significand < 0 ? -cut : cut;
  }
  return toward_zero(sum, largest - kFractionBits);
}

float tensor_core_dot(const Matrix& x, int64_t row, const Matrix& weight, int64_t output, int64_t begin,
                      int64_t end) {
  float sum = 0;
  for (int64_t k = begin; k < end; k += kBlock) {
    const auto count = static_cast<size_t>(std::min<int64_t>(kBlock, end - k));
    sum = tensor_core_add(sum, {&x.at(row, k), count}, {&weight.at(output, k), count});
  }
  return sum;
}

Matrix tensor_core_matmul(const Matrix& x, const Matrix& weight, const Matrix& bias) {
  Matrix out(x.rows, weight.rows);
  for (int64_t m = 0; m < x.rows; ++m) {
    for (int64_t n = 0; n < weight.rows; ++n) {
      const float sum = tensor_core_dot(x, m, weight, n, 0, x.columns);
      out.at(m, n) = bias.empty() ? sum : sum + bias.at(0, n);
    }
  }
  return out;
}

GatePair tensor_core_gate_pair(const Matrix& x, std::span<const Matrix> gate, std::span<const Matrix> up,
                               std::span<const ExpertRow> rows) {
  const auto num_rows = static_cast<int64_t>(rows.size());
  GatePair pair{Matrix(num_rows, gate[0].rows), Matrix(num_rows, gate[0].rows)};
  for (int64_t r = 0; r < num_rows; ++r) {
    const ExpertRow& row = rows[static_cast<size_t>(r)];
    const auto expert = static_cast<size_t>(row.expert);
    for (int64_t i = 0; i < pair.gate.columns; ++i) {
      pair.gate.at(r, i) = tensor_core_dot(x, row.token, gate[expert], i, 0, x.columns);
      pair.up.at(r, i) = tensor_core_dot(x, row.token, up[expert], i, 0, x.columns);
    }
  }
  return pair;
}

void tensor_core_order_free_matmul(const Matrix& x, std::span<const Matrix> down, int64_t k_chunks,
                                   std::span<const ExpertRow> rows, Dense<int64_t>& sums) {
  const int64_t chunk_k = x.columns / k_chunks;
  const int64_t flag = sums.columns - 1;
  for (int64_t r = 0; r < x.rows; ++r) {
    const ExpertRow& row = rows[static_cast<size_t>(r)];
    const Matrix& weight = down[static_cast<size_t>(row.expert)];
    for (int64_t begin = 0; begin < x.columns; begin += chunk_k) {
      for (int64_t n = 0; n < weight.rows; ++n) {
        const float partial = tensor_core_dot(x, r, weight, n, begin, begin + chunk_k) * row.weight;
        if (std::isfinite(partial))
          sums.at(row.token, n) += to_fixed(partial);
        else
          ++sums.at(row.token, flag);
      }
    }
  }
}

Matrix tensor_core_attention(const AttentionShape& shape, const Matrix& q, int64_t first_position,
                             const Matrix& keys, const Matrix& values, const Exp2& exp2) {
  Matrix out(q.rows, q.columns);
  for (int64_t row = 0; row < q.rows; ++row) {
    const int64_t visible = first_position + row + 1;
    for (int64_t h = 0; h < shape.num_heads; ++h) {
      const Head head{q,
                      keys,
                      values,
                      shape.head_dim,
                      h * shape.head_dim,
                      h / (shape.num_heads / shape.num_kv_heads) * shape.head_dim,
                      exp2};
      BlockResult total = attend_to_block(head, row, 0, std::min(visible, kAttentionBlock));
      for (int64_t first = kAttentionBlock; first < visible; first += kAttentionBlock)
        merge(total, attend_to_block(head, row, first, std::min(visible - first, kAttentionBlock)));
      for (int64_t d = 0; d < shape.head_dim; ++d)
        out.at(row, head.q_column + d) = to_float(to_bf16(total.out[static_cast<size_t>(d)] / total.sum));
    }
  }
  return out;
}

}  // namespace chorale::ref
