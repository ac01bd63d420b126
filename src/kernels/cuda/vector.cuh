// Loads and stores of up to 16 bytes, and views of tensors that kernels take by value.
//
// Where a row begins decides how it is read, never which thread sums what: an op's bits do not depend on it.
#pragma once

#include <cuda_bf16.h>

#include "base/tensor.h"

namespace chorale::cuda {

// A matrix as kernels see it.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;  // in elements
  __device__ T* row(int64_t r) const { return data + r * stride; }
};

template <typename T>
Rows<T> rows_of(const Tensor& tensor) {
  return {reinterpret_cast<T*>(tensor.bytes()), tensor.row_stride()};
}

// Every row begins at a multiple of `bytes`.
inline bool rows_aligned(const Tensor& tensor, size_t bytes) {
  return reinterpret_cast<uintptr_t>(tensor.bytes()) % bytes == 0 &&
         static_cast<size_t>(tensor.row_stride()) * size_of(tensor.dtype()) % bytes == 0;
}

template <typename T, int n>
struct alignas(sizeof(T) * n) Vector {
  T at[n];
};

// Elements [0, n) at `from`, of which `count` are there; the rest are zero. At once where all are there and
// the address allows.
template <int n, typename T>
__device__ __forceinline__ Vector<T, n> load(const T* from, int64_t count, bool aligned) {
  if (aligned && count >= n) return *reinterpret_cast<const Vector<T, n>*>(from);
  Vector<T, n> v;
#pragma unroll
  for (int i = 0; i < n; ++i) v.at[i] = i < count ? from[i] : T{};
  return v;
}

template <int n, typename T>
__device__ __forceinline__ void store(T* to, const Vector<T, n>& v, int64_t count, bool aligned) {
  if (aligned && count >= n) {
    *reinterpret_cast<Vector<T, n>*>(to) = v;
    return;
  }
#pragma unroll
  for (int i = 0; i < n; ++i) {
    if (i < count) to[i] = v.at[i];
  }
}

__device__ __forceinline__ float widen(float x) {
  return x;
}
__device__ __forceinline__ float widen(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ __forceinline__ void narrow(float x, float& out) {
  out = x;
}
__device__ __forceinline__ void narrow(float x, __nv_bfloat16& out) {
  out = __float2bfloat16_rn(x);
}

// Calls run(T{}) with the element type of activations: bf16 or float32.
template <typename Run>
void with_activation(DType dtype, const Run& run) {
  CHORALE_CHECK(dtype == DType::bf16 || dtype == DType::f32, "activations of {}", name_of(dtype));
  if (dtype == DType::bf16)
    run(__nv_bfloat16{});
  else
    run(float{});
}

}  // namespace chorale::cuda
