// Ops of rows.h that move rows: a block of threads takes a part of a row.
#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vector.cuh"

namespace chorale::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 4;

LaunchShape shape_for(int64_t rows, int64_t columns) {
  return {dim3(static_cast<unsigned>(rows), blocks_for(columns, kThreads * kPerThread)), kThreads};
}
__device__ int64_t first_column() {
  return (int64_t{blockIdx.y} * kThreads + threadIdx.x) * kPerThread;
}

// out[m] = from[rows[m]], widened; a row that is not there is NaN. rows: null stands for 0, 1, 2, ...
template <typename T, bool whole>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const int32_t* rows, Rows<const T> from, int64_t num_rows, int64_t columns,
                  Rows<float> out) {
  wait_for_previous();
  allow_next();
  const int64_t c = first_column();
  if (c >= columns) return;
  const int64_t row = rows == nullptr ? blockIdx.x : rows[blockIdx.x];
  Vector<float, kPerThread> widened;
  if (row < 0 || row >= num_rows) {
#pragma unroll
    for (float& value : widened.at) value = __int_as_float(0x7FC00000);  // NaN
  } else {
    const Vector<T, kPerThread> v = load<kPerThread, whole>(from.row(row) + c, columns - c);
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) widened.at[i] = widen(v.at[i]);
  }
  store<kPerThread, whole>(out.row(blockIdx.x) + c, widened, columns - c);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    embed_bits_kernel(const int32_t* ids, Rows<const T> table, int64_t first_row, int64_t num_rows,
                      int64_t columns, Rows<int64_t> bits) {
  wait_for_previous();
  allow_next();
  const int64_t row = ids[blockIdx.x] - first_row;
  const bool here = row >= 0 && row < num_rows;
  const int64_t first = int64_t{blockIdx.y} * kThreads * kPerThread + threadIdx.x;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int64_t c = first + i * kThreads;
    if (c > columns) return;
    // The last column counts non-finite values, of which there are none.
    bits.row(blockIdx.x)[c] =
        here && c < columns ? int64_t{__float_as_uint(widen(table.row(row)[c]))} : int64_t{0};
  }
}

__global__ void __launch_bounds__(kThreads)
    bits_to_rows_kernel(Rows<const int64_t> bits, int64_t columns, Rows<float> out) {
  wait_for_previous();
  allow_next();
  const int64_t first = int64_t{blockIdx.y} * kThreads * kPerThread + threadIdx.x;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int64_t c = first + i * kThreads;
    if (c < columns) out.row(blockIdx.x)[c] = __uint_as_float(static_cast<unsigned>(bits.row(blockIdx.x)[c]));
  }
}

template <typename T>
void gather(const Queue& queue, const char* name, const int32_t* rows, const Tensor& from,
            const Tensor& out) {
  const bool is_whole =
      rows_aligned(from, kPerThread) && rows_aligned(out, kPerThread) && out.columns() % kPerThread == 0;
  with_flag(is_whole, [&](auto whole) {
    launch(queue, name, gather_kernel<T, whole()>, shape_for(out.rows(), out.columns()), rows,
           rows_of<const T>(from), from.rows(), out.columns(), rows_of<float>(out));
  });
}

}  // namespace

void embed(const Queue& queue, const Tensor& ids, const Tensor& table, const Tensor& out) {
  with_activation(table.dtype(), [&](auto element) {
    gather<decltype(element)>(queue, "embed", ids.device_data<int32_t>(), table, out);
  });
}

void embed_bits(const Queue& queue, const Tensor& ids, const Tensor& table, int64_t first_row,
                const Tensor& bits) {
  with_activation(table.dtype(), [&](auto element) {
    using T = decltype(element);
    launch(queue, "embed_bits", embed_bits_kernel<T>, shape_for(bits.rows(), bits.columns()),
           ids.device_data<int32_t>(), rows_of<const T>(table), first_row, table.rows(), table.columns(),
           rows_of<int64_t>(bits));
  });
}

void bits_to_rows(const Queue& queue, const Tensor& bits, const Tensor& out) {
  launch(queue, "bits_to_rows", bits_to_rows_kernel, shape_for(out.rows(), out.columns()),
         rows_of<const int64_t>(bits), out.columns(), rows_of<float>(out));
}

void copy_rows(const Queue& queue, const Tensor& x, const Tensor& out) {
  gather<float>(queue, "copy_rows", nullptr, x, out);
}

void gather_rows(const Queue& queue, const Tensor& rows, const Tensor& x, const Tensor& out) {
  gather<float>(queue, "gather_rows", rows.device_data<int32_t>(), x, out);
}

}  // namespace chorale::cuda
