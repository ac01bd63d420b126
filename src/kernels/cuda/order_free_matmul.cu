#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/partial_sums.h"
#include "kernels/cuda/product_launch.cuh"
#include "kernels/cuda/resident_product.cuh"

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

// Sums of more tokens than a tile of 64 have room in two digits, and one item for each can store them.
void start_stored(const Queue& queue, const Tensor& x, const ProductArgs& args, const ProductSize& size) {
  constexpr int kTokens = 112;
  start<Shape<kTokens, 1, 0, 2, false>, StoreFixed<kTokens>>(queue, kName, x, args, size);
}

// The product of resident_product.cuh.
template <class Output>
void start_resident(const Queue& queue, const Tensor& x, ProductArgs args, const ProductSize& size) {
  using R = Resident;
  args.x_map = make_tensor_map(queue, x, R::kTokens);
  args.active = nullptr;
  args.row_groups = static_cast<int>(ceil_div(size.row_tiles, R::kGroups));
  args.weight_policy = kEvictNormal;
  queue.enter();
  check(
      cudaFuncSetAttribute(multiply_resident<Output>, cudaFuncAttributeMaxDynamicSharedMemorySize, R::kBytes),
      kName, queue.index());
  const int64_t items = (ceil_div(size.rows, R::kTokens) + (args.offsets != nullptr ? size.experts : 0)) *
                        ceil_div(args.row_groups, R::kSteps);
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(items, queue.num_multiprocessors()));
  launch(queue, kName, multiply_resident<Output>, {dim3(blocks), R::kThreads, R::kBytes}, args);
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

ProductArgs product_args(const Tensor& x, const TiledExperts& down, const ExpertRows& rows,
                         const ProductSize& size) {
  ProductArgs args;
  set_experts(args, down);
  set_rows(args, x, rows, size);
  if (!rows.all_tokens()) args.gate_weights = rows.weights.device_data<float>();
  return args;
}

}  // namespace

// One chunk of many rows needs no sums while it is multiplied, and so takes the tiles of a plain product. The
// epilogue, which stores much for few inputs, runs under the other warpgroup's product.
PartialSums order_free_partials(const Queue& queue, const Tensor& x, const TiledExperts& down,
                                const ExpertRows& rows, int64_t num_tokens) {
  constexpr int kTokens = 128;
  const TiledLayout& layout = down.layout;
  const ProductSize size{x.rows(), num_tokens, down.count, layout.row_tiles()};
  if (rows.scratch.empty() || layout.k_chunks > 1 || !is_aligned(x) || !adds_partials(layout.n)) return {};
  if (make_plan(queue, layout, size, true).kernel != ProductKernel::many_rows) return {};
  const PartialSums partials = make_partials(queue, rows, x.rows(), num_tokens, layout.n);
  ProductArgs args = product_args(x, down, rows, size);
  args.out = partials.values.device_bytes();
  args.out_stride = partials.values.row_stride();
  set_plan(args, layout, size,
           {.kernel = ProductKernel::many_rows, .tokens = kTokens, .sharing = Sharing::by_turns});
  start<Shape<kTokens, 1, 0, 2, false, Sharing::by_turns>, StorePartials<kTokens>>(queue, kName, x, args,
                                                                                   size);
  return partials;
}

void order_free_matmul(const Queue& queue, const Tensor& x, const TiledExperts& down, const ExpertRows& rows,
                       const Tensor& sums, const ExpertOptions& options) {
  const TiledLayout& layout = down.layout;
  CHORALE_CHECK(!layout.fused_pair);
  CHORALE_CHECK(x.dtype() == layout.dtype && x.columns() == layout.k);
  CHORALE_CHECK(sums.dtype() == DType::i64 && sums.columns() == layout.n + 1);
  CHORALE_CHECK(!rows.all_tokens() || (down.count == 1 && sums.rows() >= x.rows()));
  CHORALE_CHECK(options.mode != SumMode::assign || rows.all_tokens());
  CHORALE_CHECK(layout.k_chunks <= kMaxSumChunks);
  if (x.empty()) return;
  const bool assigns = options.mode == SumMode::assign;
  const ProductSize size{x.rows(), rows.all_tokens() ? x.rows() : sums.rows(), down.count,
                         layout.row_tiles()};
  if (options.choice == Choice::planned) {
    const PartialSums partials = order_free_partials(queue, x, down, rows, size.tokens);
    if (!partials.empty()) return add_partials(queue, partials, sums.first_rows(size.tokens), options.mode);
  }
  ProductArgs args = product_args(x, down, rows, size);
  args.out = sums.device_bytes();
  args.out_stride = sums.row_stride();
  args.largest_digits = largest_in_digits(layout.k_chunks);
  const bool fits = options.choice == Choice::planned && is_aligned(x);
  ProductPlan plan = make_plan(queue, layout, size, fits);
  // The counts are added to, also where sums are stored.
  const auto clear_counts = [&] {
    if (!options.is_zero) clear_sums(queue, sums.first_rows(x.rows()).middle_columns(layout.n, 1));
  };
  plan.tokens = std::min<int64_t>(plan.tokens, 64);  // one chunk, too, is summed in 64 bits
  plan.sharing = Sharing::one_tile;
  set_plan(args, layout, size, plan);
  if (fits && keeps_rows(layout, x.rows(), down.count)) {
    args.chunks = static_cast<int>(layout.k_chunks);
    if (!rows.all_tokens()) return start_resident<AddSums>(queue, x, args, size);
    if (assigns) {
      clear_counts();
      return start_resident<StoreSums>(queue, x, args, size);
    }
  }
  if (plan.kernel == ProductKernel::many_rows && plan.block_chunk == 0 && rows.all_tokens() && assigns) {
    clear_counts();
    return start_stored(queue, x, args, size);
  }
  if (assigns && !options.is_zero) clear_sums(queue, sums.first_rows(x.rows()));
  if (!layout.has_tiles())
    return start_plain<AddFixed<kPlainTokens, false>, FloatOperands>(queue, kName, args, size);
  start_planned(queue, plan, x, args, size);
}

}  // namespace chorale::cuda
