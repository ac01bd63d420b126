#include "kernels/cuda/product_launch.cuh"

namespace chorale::cuda {
namespace {

constexpr const char* kName = "matmul";

template <int Tokens, int StageTiles, int Groups, Sharing How = Sharing::one_tile>
void start_tiled(const Queue& queue, const Tensor& x, const ProductArgs& args, const ProductSize& size) {
  start<Shape<Tokens, StageTiles, 0, Groups, Tokens <= 32, How>, StoreFloats<Tokens>>(queue, kName, x, args,
                                                                                      size);
}

void start_planned(const Queue& queue, const ProductPlan& plan, const Tensor& x, const ProductArgs& args,
                   const ProductSize& size) {
  if (plan.kernel == ProductKernel::plain)
    return start_plain<StoreFloats<kPlainTokens>>(queue, kName, args, size);
  if (plan.kernel == ProductKernel::many_rows) {
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

void matmul(const Queue& queue, const Tensor& x, std::span<const TiledTarget> targets, Choice choice) {
  CHORALE_CHECK(!targets.empty() && targets.size() <= kMaxTargets);
  const TiledLayout& layout = targets[0].weight.layout;
  CHORALE_CHECK(x.dtype() == layout.dtype && x.columns() == layout.k);
  if (x.empty()) return;
  ProductSize size{x.rows(), x.rows(), 1, 0};
  ProductArgs args;
  args.num_targets = static_cast<int>(targets.size());
  for (size_t t = 0; t < targets.size(); ++t) {
    const auto& [weight, bias, out] = targets[t];
    CHORALE_CHECK(weight.layout.k == layout.k && weight.layout.k_chunks == 1 && !weight.layout.fused_pair &&
                  weight.layout.dtype == layout.dtype);
    check_matrix(out, DType::f32, x.rows(), weight.layout.n, "out");
    if (!bias.empty()) check_vector(bias, DType::f32, weight.layout.n, "bias");
    args.targets[t] = {.weight = weight.data,
                       .bias = bias.empty() ? nullptr : bias.device_data<float>(),
                       .out = out.device_data<float>(),
                       .out_stride = out.row_stride(),
                       .n = static_cast<int>(weight.layout.n),
                       .row_tiles = static_cast<int>(weight.layout.row_tiles()),
                       .stored_rows = static_cast<int>(weight.layout.rows())};
    size.row_tiles += weight.layout.row_tiles();
  }
  const ProductPlan plan = make_plan(queue, layout, size, choice == Choice::planned && is_aligned(x));
  set_rows(args, x, {}, size);
  set_plan(args, layout, size, plan);
  if (!layout.has_tiles())
    return start_plain<StoreFloats<kPlainTokens>, FloatOperands>(queue, kName, args, size);
  start_planned(queue, plan, x, args, size);
}

}  // namespace chorale::cuda
