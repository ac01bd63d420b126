// matmul.h and expert_matmul.h on the reference device, and the packing of their matrices.
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/ref/expert_matmul.h"
#include "kernels/ref/fixed_point.h"
#include "kernels/ref/matmul.h"
#include "kernels/ref_device/elements.h"
#include "kernels/ref_device/layout.h"
#include "kernels/ref_device/ops.h"

namespace chorale::ref_device {
namespace {

constexpr int64_t kMostRowsOfToken = 32;  // experts that a token may have

// [n, k] of a matrix, or of one half of a fused pair.
ref::Matrix load_weights(const WeightLayout& shape, const std::byte* data, int half = 0) {
  const RowMajor layout(shape);
  const auto element = static_cast<int64_t>(size_of(element_dtype(layout.format)));
  ref::Matrix matrix(layout.n, layout.k);
  for (int64_t output = 0; output < layout.n; ++output) {
    std::byte* row =
        follow(data) + layout.stored_row(output, half) * layout.row_bytes() + layout.first_column() * element;
    const ref::Matrix values =
        ref::to_matrix(Tensor(row, element_dtype(layout.format), 1, layout.k, layout.k));
    std::copy(values.values.begin(), values.values.end(), matrix.values.begin() + output * layout.k);
  }
  return matrix;
}

// The rows of one expert: which of the sorted rows, and whose tokens they are.
struct RowsOfExpert {
  int64_t expert = 0;
  int64_t first = 0;
  std::vector<ref::ExpertRow> rows;  // of expert 0: the one matrix that they are multiplied by
};

std::vector<RowsOfExpert> split(const ExpertRows& sorted, int64_t num_tokens) {
  std::vector<RowsOfExpert> experts;
  if (sorted.all_tokens()) {
    experts.emplace_back();
    for (int64_t t = 0; t < num_tokens; ++t) experts[0].rows.push_back({t, 0, 1});
    return experts;
  }
  const auto offsets = load_as<int32_t>(sorted.offsets).values;
  const auto active = load_as<int32_t>(sorted.active).values;
  const auto tokens = follow(sorted.tokens);
  const auto weights = follow(sorted.weights);
  for (int32_t i = 1; i <= active[0]; ++i) {
    const auto expert = static_cast<size_t>(active[static_cast<size_t>(i)]);
    RowsOfExpert& rows =
        experts.emplace_back(RowsOfExpert{active[static_cast<size_t>(i)], offsets[expert], {}});
    for (int64_t r = offsets[expert]; r < offsets[expert + 1]; ++r)
      rows.rows.push_back({tokens.data<int32_t>()[r], 0, weights.data<float>()[r]});
  }
  return experts;
}

// Layout and addresses, which the caller's span may not outlive.
struct Experts {
  explicit Experts(const ExpertMatrices& matrices)
      : layout(matrices.layout), data(matrices.data.begin(), matrices.data.end()) {}
  ref::Matrix load(int64_t expert, int half = 0) const {
    return load_weights(layout, data[static_cast<size_t>(expert)], half);
  }
  WeightLayout layout;
  std::vector<const std::byte*> data;
};

// The sums of the partial sums, which have been followed.
ref::Dense<int64_t> sums_of(const PartialSums& partials, int64_t num_tokens) {
  const ref::Matrix values = load(partials.values);
  ref::Dense<int64_t> sums(num_tokens, values.columns + 1);
  for (int64_t t = 0; t < num_tokens; ++t) {
    const bool has_list = !partials.counts.empty();
    const int32_t count = has_list ? follow(partials.counts).row<int32_t>(0)[t] : 1;
    for (int32_t i = 0; i < count; ++i) {
      const int64_t row = has_list ? follow(partials.rows).row<int32_t>(t)[i] : t;
      for (int64_t n = 0; n < values.columns; ++n) {
        if (std::isfinite(values.at(row, n)))
          sums.at(t, n) += ref::to_fixed(values.at(row, n));
        else
          ++sums.at(t, values.columns);
      }
    }
  }
  return sums;
}

}  // namespace

void pack_rows(const Stream& stream, const Tensor& rows, const WeightLayout& shape, std::byte* target,
               const MatrixRegion& region) {
  enqueue(stream, [=, layout = RowMajor(shape)] {
    const Tensor from = follow(rows);
    const size_t element = size_of(from.dtype());
    for (int64_t r = 0; r < from.rows(); ++r) {
      std::byte* to =
          follow(target) + layout.stored_row(region.first_row + r, region.half) * layout.row_bytes();
      std::memcpy(to + region.first_column * static_cast<int64_t>(element), from.middle_rows(r, 1).bytes(),
                  static_cast<size_t>(from.columns()) * element);
    }
  });
}

void matmul(const Stream& stream, const Tensor& x, std::span<const MatmulTarget> targets) {
  enqueue(stream, [x, targets = std::vector(targets.begin(), targets.end())] {
    const ref::Matrix input = load(x);
    for (const MatmulTarget& t : targets) {
      const WeightLayout& layout = t.weight.layout;
      const ref::Matrix bias = t.bias.empty() ? ref::Matrix() : load(t.bias.first_columns(layout.n));
      store(ref::matmul(input, load_weights(layout, t.weight.data), bias), t.out);
    }
  });
}

void gated_matmul(const Stream& stream, const Tensor& x, const ExpertMatrices& gate_up,
                  const ExpertRows& rows, const Tensor& out) {
  enqueue(stream, [=, experts = Experts(gate_up)] {
    const ref::Matrix input = load(x);
    for (const RowsOfExpert& of : split(rows, x.rows())) {
      const ref::Matrix gate = experts.load(of.expert, 0), up = experts.load(of.expert, 1);
      store(ref::gated_matmul(input, {&gate, 1}, {&up, 1}, of.rows),
            out.middle_rows(of.first, std::ssize(of.rows)));
    }
  });
}

void order_free_matmul(const Stream& stream, const Tensor& x, const ExpertMatrices& down,
                       const ExpertRows& rows, const Tensor& sums, SumMode mode) {
  enqueue(stream, [=, experts = Experts(down)] {
    ref::Dense<int64_t> total =
        mode == SumMode::assign ? ref::Dense<int64_t>(sums.rows(), sums.columns()) : load_as<int64_t>(sums);
    for (const RowsOfExpert& of : split(rows, x.rows())) {
      const ref::Matrix weight = experts.load(of.expert);
      ref::order_free_matmul(load(x.middle_rows(of.first, std::ssize(of.rows))), {&weight, 1},
                             experts.layout.k_chunks, of.rows, total);
    }
    store(total, sums);
  });
}

int64_t partials_scratch(const WeightLayout& down, int64_t rows, int64_t num_tokens) {
  return down.k_chunks == 1 ? rows * down.n + num_tokens * (1 + kMostRowsOfToken) : 0;
}

PartialSums order_free_partials(const Stream& stream, const Tensor& x, const ExpertMatrices& down,
                                const ExpertRows& rows, int64_t num_tokens) {
  const int64_t outputs = down.layout.n;
  if (down.layout.k_chunks > 1) return {};
  CHORALE_CHECK(rows.scratch.columns() >= partials_scratch(down.layout, x.rows(), num_tokens));
  std::byte* at = rows.scratch.device_bytes();
  const Device device = rows.scratch.device();
  PartialSums partials{Tensor(at, DType::f32, x.rows(), outputs, outputs, device)};
  if (!rows.all_tokens()) {
    at += x.rows() * outputs * static_cast<int64_t>(sizeof(float));
    partials.counts = Tensor(at, DType::i32, 1, num_tokens, num_tokens, device);
    at += num_tokens * static_cast<int64_t>(sizeof(int32_t));
    partials.rows = Tensor(at, DType::i32, num_tokens, kMostRowsOfToken, kMostRowsOfToken, device);
  }
  enqueue(stream, [=, experts = Experts(down)] {
    std::vector<int32_t> counts(static_cast<size_t>(num_tokens));
    for (const RowsOfExpert& of : split(rows, x.rows())) {
      const ref::Matrix weight = experts.load(of.expert);
      store(
          ref::order_free_partials(load(x.middle_rows(of.first, std::ssize(of.rows))), {&weight, 1}, of.rows),
          partials.values.middle_rows(of.first, std::ssize(of.rows)));
      for (size_t r = 0; r < of.rows.size() && !partials.counts.empty(); ++r) {
        int32_t& count = counts[static_cast<size_t>(of.rows[r].token)];
        CHORALE_CHECK(count < kMostRowsOfToken);
        follow(partials.rows).row<int32_t>(of.rows[r].token)[count++] =
            static_cast<int32_t>(of.first + static_cast<int64_t>(r));
      }
    }
    if (!partials.counts.empty())
      std::copy(counts.begin(), counts.end(), follow(partials.counts).row<int32_t>(0));
  });
  return partials;
}

void add_partials(const Stream& stream, const PartialSums& partials, const Tensor& sums) {
  enqueue(stream, [=] { store(sums_of(partials, sums.rows()), sums); });
}

void add_partials_norm(const Stream& stream, const PartialSums& partials, const Tensor& bias,
                       const Tensor& residual, const NormWeight& norm, const Tensor& out) {
  enqueue(stream, [=] {
    ref::Matrix rows = load(residual);
    ref::add_sums(sums_of(partials, rows.rows), bias.empty() ? ref::Matrix() : load(bias), rows);
    store(rows, residual);
  });
  rms_norm(stream, residual, norm.weight, norm.eps, out);
}

}  // namespace chorale::ref_device
