// embed and gather_rows of rows.h on the CPU.
#include "kernels/rows.h"

#include <cstring>

#include "kernels/cpu/plain_kernels.h"

namespace chorale::cpu {

void embed(ThreadPool& pool, const Tensor& ids, const Tensor& table, const Tensor& out) {
  const int32_t* id = ids.data<int32_t>();
  pool.parallel(out.rows(), [&](int64_t t) {
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

void gather_rows(ThreadPool& pool, const Tensor& rows, const Tensor& x, const Tensor& out) {
  const int32_t* row = rows.data<int32_t>();
  pool.parallel(out.rows(), [&](int64_t m) {
    CHORALE_CHECK(row[m] >= 0 && row[m] < x.rows(), "row {} of {}", row[m], x.rows());
    std::memcpy(out.row<float>(m), x.row<float>(row[m]), static_cast<size_t>(out.columns()) * sizeof(float));
  });
}

}  // namespace chorale::cpu
