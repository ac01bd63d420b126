// Packing of rows that lie in the GPU's memory, on their way into the form of layout.h.
#include <type_traits>

#include "base/error.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.h"
#include "kernels/cuda/vector.cuh"

namespace chorale::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRun = static_cast<int>(kPiece);  // columns of a thread: neighbours in either form

struct PackArgs {
  TiledLayout layout;
  PackRegion region;
  int64_t columns;  // of the rows
};

// Runs begin where the matrix's pieces do. whole: rows are aligned to theirs.
template <typename From, typename To, bool whole>
__global__ void __launch_bounds__(kThreads) pack_kernel(Rows<const From> rows, PackArgs args, To* target) {
  wait_for_previous();
  allow_next();
  const auto& [layout, region, columns] = args;
  const int64_t run = region.first_column / kRun + int64_t{blockIdx.y} * kThreads + threadIdx.x;
  const int64_t first = max(run * kRun, region.first_column);
  const int64_t count = min((run + 1) * kRun, region.first_column + columns) - first;
  if (count <= 0) return;
  const From* from = rows.row(blockIdx.x) + (first - region.first_column);
  To* to = target + layout.element(layout.stored_row(region.first_row + blockIdx.x, region.half), first);
  if constexpr (whole && std::is_same_v<From, To> && sizeof(From) * kRun == 16) {
    if (count == kRun) return store<kRun, true>(to, load<kRun, true>(from));
  }
  for (int i = 0; i < count; ++i) {
    if constexpr (std::is_same_v<From, To>)
      to[i] = from[i];
    else
      narrow(widen(from[i]), to[i]);
  }
}

}  // namespace

void pack_rows(const Queue& queue, const Tensor& rows, const TiledLayout& layout, std::byte* target,
               const PackRegion& region) {
  CHORALE_CHECK(region.first_row >= 0 && region.first_row + rows.rows() <= layout.n);
  CHORALE_CHECK(region.first_column >= 0 && region.first_column + rows.columns() <= layout.k);
  CHORALE_CHECK(region.half == 0 || (region.half == 1 && layout.fused_pair));
  if (rows.empty()) return;
  const int64_t last = region.first_column + rows.columns() - 1;
  const LaunchShape shape{dim3(static_cast<unsigned>(rows.rows()),
                               blocks_for(last / kRun - region.first_column / kRun + 1, kThreads)),
                          kThreads};
  with_activation(rows.dtype(), [&](auto from) {
    with_activation(layout.dtype, [&](auto to) {
      with_flag(rows_aligned(rows, kRun) && region.first_column % kRun == 0, [&](auto whole) {
        using From = decltype(from);
        using To = decltype(to);
        launch(queue, "pack_rows", pack_kernel<From, To, whole()>, shape, rows_of<const From>(rows),
               PackArgs{layout, region, rows.columns()}, reinterpret_cast<To*>(target));
      });
    });
  });
}

}  // namespace chorale::cuda
