// rows.h on the CPU, but for rms_norm.
#include "kernels/rows.h"

#include <bit>
#include <cstring>

#include "kernels/cpu/ops.h"

namespace chorale::cpu {

void embed(const Stream& stream, const Tensor& ids, const Tensor& table, const Tensor& out) {
  const int32_t* id = ids.data<int32_t>();
  stream.pool().parallel(out.rows(), [&](int64_t t) {
    CHORALE_CHECK(id[t] >= 0 && id[t] < table.rows(), "token id {} of {}", id[t], table.rows());
    float* to = out.row<float>(t);
    if (table.dtype() == DType::bf16) {
      const bf16* from = table.row<bf16>(id[t]);
      for (int64_t c = 0; c < out.columns(); ++c) to[c] = to_float(from[c]);
    } else {
      std::memcpy(to, table.row<float>(id[t]), static_cast<size_t>(out.columns()) * sizeof(float));
    }
  });
}

void embed_bits(const Stream& stream, const Tensor& ids, const Tensor& table, int64_t first_row,
                const Tensor& bits) {
  const auto* id = ids.data<int32_t>();
  stream.pool().parallel(bits.rows(), [&](int64_t t) {
    int64_t* to = bits.row<int64_t>(t);
    std::memset(to, 0, static_cast<size_t>(bits.columns()) * sizeof(int64_t));
    const int64_t row = id[t] - first_row;
    if (row < 0 || row >= table.rows()) return;
    for (int64_t c = 0; c < table.columns(); ++c) {
      const float value =
          table.dtype() == DType::bf16 ? to_float(table.row<bf16>(row)[c]) : table.row<float>(row)[c];
      to[c] = static_cast<int64_t>(std::bit_cast<uint32_t>(value));
    }
  });
}

void bits_to_rows(const Stream& stream, const Tensor& bits, const Tensor& out) {
  stream.pool().parallel(out.rows(), [&](int64_t t) {
    for (int64_t c = 0; c < out.columns(); ++c) {
      out.row<float>(t)[c] = std::bit_cast<float>(static_cast<uint32_t>(bits.row<int64_t>(t)[c]));
    }
  });
}

void copy_rows(const Stream& stream, const Tensor& x, const Tensor& out) {
  stream.pool().parallel(out.rows(), [&](int64_t m) {
    std::memcpy(out.row<float>(m), x.row<float>(m), static_cast<size_t>(out.columns()) * sizeof(float));
  });
}

void gather_rows(const Stream& stream, const Tensor& rows, const Tensor& x, const Tensor& out) {
  const int32_t* row = rows.data<int32_t>();
  stream.pool().parallel(out.rows(), [&](int64_t m) {
    CHORALE_CHECK(row[m] >= 0 && row[m] < x.rows(), "row {} of {}", row[m], x.rows());
    std::memcpy(out.row<float>(m), x.row<float>(row[m]), static_cast<size_t>(out.columns()) * sizeof(float));
  });
}

}  // namespace chorale::cpu
