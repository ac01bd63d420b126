#include "kernels/ref/tensor_core.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

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

}  // namespace chorale::ref
