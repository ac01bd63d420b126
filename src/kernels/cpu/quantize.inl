// quantize.h on the CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/thread_pool.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/min_max.inl"
#include "kernels/cpu/tile.inl"
#include "kernels/cpu/vec.h"
#include "kernels/cpu/vec_int.h"
#include "kernels/shapes.h"

namespace chorale::CHORALE_ISA {
namespace {

constexpr int64_t kQuantizeTogether = 1 << 13;  // elements that are not worth other threads

// One group, of which `count` inputs are there; the others are 0.
template <typename T>
void quantize_group(const T* x, int64_t count, int64_t group_k, std::byte* out) {
  Vec largest = zero();
  uint32_t bad = 0;
  for (int64_t i = 0; i < count; i += 16) {
    const Vec v = load_up_to(x + i, count - i);
    bad |= non_finite_mask(v);
    largest = max(max(v, sub(zero(), v)), largest);
  }
  const float bound = bad != 0 ? 0.0F : largest_lane(largest);
  const float inverse = bound < kTinyInt8 ? 0.0F : 127.0F / bound;
  const float scale = bad != 0 ? __builtin_nanf("") : inverse == 0.0F ? 0.0F : bound / 127.0F;
  int32_t sum = 0;
  auto* values = reinterpret_cast<int8_t*>(out + kGroupHeaderBytes);
  for (int64_t i = 0; i < group_k; i += 16) {
    if (i >= count || inverse == 0.0F) {
      std::memset(values + i, 0, static_cast<size_t>(smaller(16, group_k - i)));
      continue;
    }
    const Vec q = round_to_int(mul(load_up_to(x + i, count - i), splat(inverse)));
    sum += store_int8(values + i, q, smaller(16, group_k - i));
  }
  std::memcpy(out, &scale, 4);
  std::memcpy(out + 4, &sum, 4);
}

template <typename T>
void quantize_row(const cpu::QuantizeArgs& args, int64_t row) {
  const T* x = reinterpret_cast<const T*>(args.x + row * args.x_stride_bytes);
  std::byte* out = args.out + row * args.out_stride;
  // Other cores have read what was here: to take the lines back one by one, as stores do, takes longer than
  // all else.
  for (int64_t i = 0; i < args.out_stride; i += kLineBytes) __builtin_prefetch(out + i, 1);
  for (int64_t c = 0; c < args.chunks; ++c, x += args.chunk_k) {
    for (int64_t begin = 0; begin < args.chunk_k; begin += args.group_k) {
      quantize_group(x + begin, smaller(args.group_k, args.chunk_k - begin), args.group_k, out);
      out += kGroupHeaderBytes + args.group_k;
    }
  }
}

void quantize_rows(ThreadPool& pool, const cpu::QuantizeArgs& args) {
  const auto quantize = [&](int64_t row) {
    if (args.x_is_bf16)
      quantize_row<bf16>(args, row);
    else
      quantize_row<float>(args, row);
  };
  if (args.rows * args.chunks * args.chunk_k > kQuantizeTogether) {
    pool.parallel(args.rows, quantize);
  } else {
    for (int64_t row = 0; row < args.rows; ++row) quantize(row);
  }
}

}  // namespace
}  // namespace chorale::CHORALE_ISA
