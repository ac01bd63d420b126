#include "kernels/cuda/product_launch.cuh"

namespace chorale::cuda {
namespace {

constexpr const char* kName = "gated_matmul";

template <int Tokens, int StageTiles, int Groups, Sharing How = Sharing::one_tile>
void start_tiled(const Queue& queue, const Tensor& x, const ProductArgs& args, const ProductSize& size) {
  using Epilogue = StoreGated<Tokens, true>;
  if (Tokens <= 32 || args.gathers)
    start<Shape<Tokens, StageTiles, 0, Groups, true, How>, Epilogue>(queue, kName, x, args, size);
  else
    start<Shape<Tokens, StageTiles, 0, Groups, Tokens <= 32, How>, Epilogue>(queue, kName, x, args, size);
}

void start_planned(const Queue& queue, const ProductPlan& plan, const Tensor& x, const ProductArgs& args,
                   const ProductSize& size) {
  if (plan.kernel == ProductKernel::plain)
    return start_plain<StoreGated<kPlainTokens, false>>(queue, kName, args, size);
  if (plan.kernel == ProductKernel::many_rows) {
    if (plan.tokens == 160) return start_tiled<160, 1, 2, Sharing::two_tiles>(queue, x, args, size);
    if (plan.sharing == Sharing::by_turns)
      return start_tiled<128, 1, 2, Sharing::by_turns>(queue, x, args, size);
    return start_tiled<128, 1, 2>(queue, x, args, size);
  }
  if (plan.stage_k == 1) return start_tiled<64, 1, 1>(queue, x, args, size);
  switch (plan.tokens) {
    case 8:
      return start_tiled<8, 2, 1>(queue, x, args, size);
    case 16:
      return start_tiled<16, 2, 1>(queue, x, args, size);
    case 32:
      return start_tiled<32, 2, 1>(queue, x, args, size);
    default:
      return start_tiled<64, 2, 1>(queue, x, args, size);
  }
}

}  // namespace

void gated_matmul(const Queue& queue, const Tensor& x, const TiledExperts& gate_up, const ExpertRows& rows,
                  const Tensor& out, const ExpertOptions& options) {
  const TiledLayout& layout = gate_up.layout;
  CHORALE_CHECK(layout.fused_pair && layout.k_chunks == 1);
  CHORALE_CHECK(x.dtype() == layout.dtype && x.columns() == layout.k);
  CHORALE_CHECK(out.dtype() == layout.dtype && out.columns() == layout.n);
  CHORALE_CHECK(!rows.all_tokens() || gate_up.count == 1);
  if (x.empty() || out.empty()) return;
  const ProductSize size{out.rows(), x.rows(), gate_up.count, layout.row_tiles()};
  ProductArgs args;
  set_experts(args, gate_up);
  args.out = out.device_bytes();
  args.out_stride = out.row_stride();
  set_rows(args, x, rows, size);
  args.gathers = !rows.all_tokens() && options.input == RowInput::by_token;
  const bool fits = is_aligned(x) && is_aligned(out) && layout.n % kPiece == 0;
  const ProductPlan plan = make_plan(queue, layout, size, options.choice == Choice::planned && fits);
  set_plan(args, layout, size, plan);
  if (!layout.has_tiles())
    return start_plain<StoreGated<kPlainTokens, false, float>, FloatOperands>(queue, kName, args, size);
  start_planned(queue, plan, x, args, size);
}

}  // namespace chorale::cuda
