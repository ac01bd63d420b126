// Ops of rope.h. A warp has a few heads of one token.
#include "base/error.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/vector.cuh"

namespace chorale::cuda {
namespace {

constexpr int kTableThreads = 64;
constexpr int kWarps = 4;

__global__ void __launch_bounds__(kTableThreads)
    table_kernel(const int32_t* positions, const float* frequencies, float scale, int64_t half,
                 Rows<float> cos_sin) {
  wait_for_previous();
  allow_next();
  const int64_t i = int64_t{blockIdx.y} * kTableThreads + threadIdx.x;
  if (i >= half) return;
  // The angle is rounded to float32 as transformers does, or long contexts would drift away from the
  // reference.
  const double angle = static_cast<float>(positions[blockIdx.x]) * frequencies[i];
  double sine = 0;
  double cosine = 0;
  sincos(angle, &sine, &cosine);
  cos_sin.row(blockIdx.x)[i] = static_cast<float>(cosine) * scale;
  cos_sin.row(blockIdx.x)[half + i] = static_cast<float>(sine) * scale;
}

template <typename Out, int run, bool whole>
__global__ void __launch_bounds__(kWarps* kWarp)
    norm_rope_kernel(Rows<const float> x, RopeArgs args, int64_t heads, Rows<Out> out) {
  wait_for_previous();
  allow_next();
  const int64_t head = (int64_t{blockIdx.y} * kWarps + threadIdx.x / kWarp) * kHeadsPerWarp;
  if (head >= heads) return;
  const int64_t t = blockIdx.x;
  const int count = static_cast<int>(min(heads - head, int64_t{kHeadsPerWarp}));
  Out* to = out.row(t) + head * args.head_dim;
  norm_rope_heads<kHeadsPerWarp, run, whole>(x.row(t) + head * args.head_dim, args, t, count,
                                             [&](int h, int64_t dim, const Vector<float, run>& values) {
                                               Vector<Out, run> y;
#pragma unroll
                                               for (int i = 0; i < run; ++i) narrow(values.at[i], y.at[i]);
                                               store<run, whole>(to + h * args.head_dim + dim, y);
                                             });
}

}  // namespace

void rope_table(const Queue& queue, const Tensor& positions, const Tensor& frequencies, float scale,
                const Tensor& cos_sin) {
  const int64_t half = cos_sin.columns() / 2;
  const LaunchShape shape{dim3(static_cast<unsigned>(cos_sin.rows()), blocks_for(half, kTableThreads)),
                          kTableThreads};
  launch(queue, "rope_table", table_kernel, shape, positions.device_data<int32_t>(),
         frequencies.device_data<float>(), scale, half, rows_of<float>(cos_sin));
}

void norm_rope(const Queue& queue, const Tensor& x, const Tensor& weight, float eps, const Tensor& cos_sin,
               const Tensor& out) {
  const RopeArgs args = rope_args(weight, eps, cos_sin);
  const int64_t heads = x.columns() / args.head_dim;
  const LaunchShape shape{dim3(static_cast<unsigned>(x.rows()), blocks_for(heads, kWarps * kHeadsPerWarp)),
                          kWarps * kWarp};
  const bool is_whole = args.aligned && rows_aligned(x, 2) && rows_aligned(out, 2);
  with_activation(out.dtype(), [&](auto element) {
    with_flag(is_whole, [&](auto whole) {
      using Out = decltype(element);
      const auto kernel =
          head_run(args.head_dim) == 2 ? norm_rope_kernel<Out, 2, whole()> : norm_rope_kernel<Out, 1, false>;
      launch(queue, "norm_rope", kernel, shape, rows_of<const float>(x), args, heads, rows_of<Out>(out));
    });
  });
}

}  // namespace chorale::cuda
