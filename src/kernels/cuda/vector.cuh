// Loads and stores of up to 16 bytes, and views of tensors that kernels take by value.
//
// Where a row begins decides how it is read, never which thread sums what: an op's bits do not depend on it.
#pragma once

#include <cstring>
#include <type_traits>

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
  return {reinterpret_cast<T*>(tensor.device_bytes()), tensor.row_stride()};
}

// Every row begins at a multiple of n elements' size.
inline bool rows_aligned(const Tensor& tensor, int64_t n) {
  const size_t bytes = static_cast<size_t>(n) * size_of(tensor.dtype());
  return reinterpret_cast<uintptr_t>(tensor.device_bytes()) % bytes == 0 && tensor.row_stride() % n == 0;
}

// Neighbouring elements that a thread reads and writes at once.
template <typename T, int n>
struct alignas(sizeof(T) * n) Vector {
  T at[n];
};

// Bits of 4-byte words, as one access takes them. The compiler itself splits accesses to such a struct in
// places.
template <int words>
struct Bits {
  unsigned at[words];
};
__device__ __forceinline__ Bits<1> load_bits(const void* from, Bits<1>) {
  return {*static_cast<const unsigned*>(from)};
}
__device__ __forceinline__ Bits<2> load_bits(const void* from, Bits<2>) {
  const uint2 v = *static_cast<const uint2*>(from);
  return {v.x, v.y};
}
__device__ __forceinline__ Bits<4> load_bits(const void* from, Bits<4>) {
  const uint4 v = *static_cast<const uint4*>(from);
  return {v.x, v.y, v.z, v.w};
}
__device__ __forceinline__ void store_bits(void* to, const Bits<1>& b) {
  *static_cast<unsigned*>(to) = b.at[0];
}
__device__ __forceinline__ void store_bits(void* to, const Bits<2>& b) {
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)), "r"(b.at[0]),
               "r"(b.at[1])
               : "memory");
}
__device__ __forceinline__ void store_bits(void* to, const Bits<4>& b) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(b.at[0]),
               "r"(b.at[1]), "r"(b.at[2]), "r"(b.at[3])
               : "memory");
}

// Elements [0, n) at `from`, of which `count` are there; the rest are zero. whole: all are there, and their
// address is a multiple of their size, which rows_aligned() tells of a tensor's rows.
template <int n, bool whole, typename T>
__device__ __forceinline__ Vector<T, n> load(const T* from, int64_t count = n) {
  Vector<T, n> v;
  if constexpr (whole && n > 1) {
    const Bits<sizeof(T)* n / 4> bits = load_bits(from, Bits<sizeof(T) * n / 4>{});
    memcpy(&v, &bits, sizeof(v));
  } else {
#pragma unroll
    for (int i = 0; i < n; ++i) v.at[i] = i < count ? from[i] : T{};
  }
  return v;
}

template <int n, bool whole, typename T>
__device__ __forceinline__ void store(T* to, const Vector<T, n>& v, int64_t count = n) {
  if constexpr (whole && n > 1) {
    Bits<sizeof(T) * n / 4> bits;
    memcpy(&bits, &v, sizeof(v));
    store_bits(to, bits);
  } else {
#pragma unroll
    for (int i = 0; i < n; ++i) {
      if (i < count) to[i] = v.at[i];
    }
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

// Calls run(std::true_type{}) or run(std::false_type{}).
template <typename Run>
void with_flag(bool flag, const Run& run) {
  if (flag)
    run(std::true_type{});
  else
    run(std::false_type{});
}

}  // namespace chorale::cuda
