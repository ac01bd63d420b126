#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/product_launch.cuh"

namespace chorale::cuda {
namespace {

constexpr const char* kName = "order_free_matmul";

template <int Tokens, int StageTiles, int BlockChunk, int Groups>
void start_tiled(const Queue& queue, const Tensor& x, const ProductArgs& args, const ProductSize& size) {
  start<Shape<Tokens, StageTiles, BlockChunk, Groups, Tokens <= 16>, AddFixed<Tokens, Groups == 2>>(
      queue, kName, x, args, size);
}

template <int StageTiles, int BlockChunk>
void start_few_rows(const Queue& queue, int64_t tokens, const Tensor& x, const ProductArgs& args,
                    const ProductSize& size) {
  switch (tokens) {
    case 8:
      return start_tiled<8, StageTiles, BlockChunk, 1>(queue, x, args, size);
    case 16:
      return start_tiled<16, StageTiles, BlockChunk, 1>(queue, x, args, size);
    case 32:
      return start_tiled<32, StageTiles, BlockChunk, 1>(queue, x, args, size);
    default:
      return start_tiled<64, StageTiles, BlockChunk, 1>(queue, x, args, size);
  }
}

void start_planned(const Queue& queue, const ProductPlan& plan, const Tensor& x, const ProductArgs& args,
                   const ProductSize& size) {
  const bool in_stage = plan.block_chunk != 0;
  if (plan.kernel == ProductKernel::plain)
    return start_plain<AddFixed<kPlainTokens, false>>(queue, kName, args, size);
  if (plan.kernel == ProductKernel::many_rows) {
    if (in_stage) return start_tiled<64, 1, 6, 2>(queue, x, args, size);
    return start_tiled<64, 1, 0, 2>(queue, x, args, size);
  }
  if (in_stage) return start_few_rows<3, 6>(queue, plan.tokens, x, args, size);
  if (plan.stage_k == 1) return start_tiled<64, 1, 0, 1>(queue, x, args, size);
  start_few_rows<2, 0>(queue, plan.tokens, x, args, size);
}

}  // namespace

void order_free_matmul(const Queue& queue, const Tensor& x, const TiledExperts& down, const ExpertRows& rows,
                       const Tensor& sums, const ExpertOptions& options) {
  const TiledLayout& layout = down.layout;
  CHORALE_CHECK(!layout.fused_pair);
  CHORALE_CHECK(x.dtype() == layout.dtype && x.columns() == layout.k);
  CHORALE_CHECK(sums.dtype() == DType::i64 && sums.columns() == layout.n + 1);
  CHORALE_CHECK(!rows.all_tokens() || (down.count == 1 && sums.rows() >= x.rows()));
  CHORALE_CHECK(options.mode == SumMode::add || rows.all_tokens());
  CHORALE_CHECK(layout.k_chunks <= kMaxSumChunks);
  if (x.empty()) return;
  if (options.mode == SumMode::assign) clear_sums(queue, sums.first_rows(x.rows()));
  const ProductSize size{x.rows(), rows.all_tokens() ? x.rows() : sums.rows(), down.count,
                         layout.row_tiles()};
  ProductArgs args;
  set_experts(args, down);
  args.out = sums.device_bytes();
  args.out_stride = sums.row_stride();
  set_rows(args, x, rows, size);
  if (!rows.all_tokens()) args.gate_weights = rows.weights.device_data<float>();
  ProductPlan plan = make_plan(queue, layout, size, options.choice == Choice::planned && is_aligned(x));
  plan.tokens = std::min<int64_t>(plan.tokens, 64);  // one chunk, too, is summed in 64 bits
  set_plan(args, layout, size, plan);
  if (!layout.has_tiles())
    return start_plain<AddFixed<kPlainTokens, false>, FloatOperands>(queue, kName, args, size);
  start_planned(queue, plan, x, args, size);
}

}  // namespace chorale::cuda
