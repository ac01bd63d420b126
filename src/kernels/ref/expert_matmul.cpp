#include "kernels/ref/expert_matmul.h"

#include <cmath>

#include "kernels/ref/fixed_point.h"

namespace chorale::ref {
namespace {

// The product of a row of x with a row of the weight over the inputs [begin, end).
double dot(const Matrix& x, int64_t row, const Matrix& weight, int64_t output, int64_t begin, int64_t end) {
  double sum = 0;
  for (int64_t k = begin; k < end; ++k) sum += double{x.at(row, k)} * double{weight.at(output, k)};
  return sum;
}

}  // namespace

double silu(double x) {
  return x / (1 + std::exp(-x));
}

Dense<double> gated_matmul(const Matrix& x, std::span<const Matrix> gate, std::span<const Matrix> up,
                           std::span<const ExpertRow> rows) {
  Dense<double> out(static_cast<int64_t>(rows.size()), gate[0].rows);
  for (int64_t r = 0; r < out.rows; ++r) {
    const ExpertRow& row = rows[static_cast<size_t>(r)];
    const auto expert = static_cast<size_t>(row.expert);
    for (int64_t i = 0; i < out.columns; ++i)
      out.at(r, i) = silu(dot(x, row.token, gate[expert], i, 0, x.columns)) *
                     dot(x, row.token, up[expert], i, 0, x.columns);
  }
  return out;
}

void order_free_matmul(const Matrix& x, std::span<const Matrix> down, int64_t k_chunks,
                       std::span<const ExpertRow> rows, Dense<int64_t>& sums) {
  const int64_t chunk_k = x.columns / k_chunks;
  const int64_t flag = sums.columns - 1;
  for (int64_t r = 0; r < x.rows; ++r) {
    const ExpertRow& row = rows[static_cast<size_t>(r)];
    const Matrix& weight = down[static_cast<size_t>(row.expert)];
    for (int64_t chunk = 0; chunk < k_chunks; ++chunk) {
      for (int64_t n = 0; n < weight.rows; ++n) {
        const auto product = static_cast<float>(dot(x, r, weight, n, chunk * chunk_k, (chunk + 1) * chunk_k));
        const float partial = product * row.weight;
        if (std::isfinite(partial))
          sums.at(row.token, n) += to_fixed(partial);
        else
          ++sums.at(row.token, flag);
      }
    }
  }
}

Matrix order_free_partials(const Matrix& x, std::span<const Matrix> down, std::span<const ExpertRow> rows) {
  Matrix partials(x.rows, down[0].rows);
  for (int64_t r = 0; r < x.rows; ++r) {
    const ExpertRow& row = rows[static_cast<size_t>(r)];
    const Matrix& weight = down[static_cast<size_t>(row.expert)];
    for (int64_t n = 0; n < weight.rows; ++n)
      partials.at(r, n) = static_cast<float>(dot(x, r, weight, n, 0, x.columns)) * row.weight;
  }
  return partials;
}

}  // namespace chorale::ref
