// rows.h and fixed_point.h on the reference device.
#include "kernels/ref/rows.h"

#include <bit>

#include "kernels/ref/fixed_point.h"
#include "kernels/ref_device/elements.h"
#include "kernels/ref_device/ops.h"

namespace chorale::ref_device {
namespace {

// The rows of a table that are asked for, of which each must be there.
void take_rows(const Stream& stream, const Tensor& rows, const Tensor& x, const Tensor& out,
               const char* what) {
  enqueue(stream, [=] {
    const auto wanted = load_as<int32_t>(rows).values;
    for (size_t m = 0; m < wanted.size(); ++m) {
      CHORALE_CHECK(wanted[m] >= 0 && wanted[m] < x.rows(), "{} {} of {}", what, wanted[m], x.rows());
      store(load(x.middle_rows(wanted[m], 1)), out.middle_rows(static_cast<int64_t>(m), 1));
    }
  });
}

}  // namespace

void embed(const Stream& stream, const Tensor& ids, const Tensor& table, const Tensor& out) {
  take_rows(stream, ids, table, out, "token id");
}

void gather_rows(const Stream& stream, const Tensor& rows, const Tensor& x, const Tensor& out) {
  take_rows(stream, rows, x, out, "row");
}

void embed_bits(const Stream& stream, const Tensor& ids, const Tensor& table, int64_t first_row,
                const Tensor& bits) {
  enqueue(stream, [=] {
    ref::Dense<int64_t> out(bits.rows(), bits.columns());
    const auto id = load_as<int32_t>(ids).values;
    for (int64_t t = 0; t < out.rows; ++t) {
      const int64_t row = id[static_cast<size_t>(t)] - first_row;
      if (row < 0 || row >= table.rows()) continue;
      const ref::Matrix values = load(table.middle_rows(row, 1));
      for (int64_t c = 0; c < values.columns; ++c) out.at(t, c) = std::bit_cast<uint32_t>(values.at(0, c));
    }
    store(out, bits);
  });
}

void bits_to_rows(const Stream& stream, const Tensor& bits, const Tensor& out) {
  enqueue(stream, [=] {
    const auto from = load_as<int64_t>(bits);
    ref::Matrix rows(out.rows(), out.columns());
    for (int64_t t = 0; t < rows.rows; ++t) {
      for (int64_t c = 0; c < rows.columns; ++c)
        rows.at(t, c) = std::bit_cast<float>(static_cast<uint32_t>(from.at(t, c)));
    }
    store(rows, out);
  });
}

void copy_rows(const Stream& stream, const Tensor& x, const Tensor& out) {
  enqueue(stream, [=] { store(load(x), out); });
}

void rms_norm(const Stream& stream, const Tensor& x, const Tensor& weight, float eps, const Tensor& out) {
  enqueue(stream, [=] { store(ref::rms_norm(load(x), load(weight.first_columns(x.columns())), eps), out); });
}

void clear_sums(const Stream& stream, const Tensor& sums) {
  enqueue(stream, [=] { store(ref::Dense<int64_t>(sums.rows(), sums.columns()), sums); });
}

void add_sums(const Stream& stream, const Tensor& sums, const Tensor& bias, const Tensor& residual) {
  enqueue(stream, [=] {
    ref::Matrix rows = load(residual);
    ref::add_sums(load_as<int64_t>(sums), bias.empty() ? ref::Matrix() : load(bias), rows);
    store(rows, residual);
  });
}

}  // namespace chorale::ref_device
