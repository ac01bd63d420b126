// From tensors to a started product: what the three ops have in common.
#pragma once

#include <algorithm>

#include "kernels/cuda/plain_product.cuh"
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/products.h"
#include "kernels/tensor_checks.h"

namespace chorale::cuda {

// What a product is about, as far as its plan and its grid depend on it.
struct ProductSize {
  int64_t rows = 0;    // of the product; at most, where they are grouped
  int64_t tokens = 0;  // no expert has more rows
  int64_t experts = 1;
  int64_t row_tiles = 0;  // of 64 stored rows, of all targets
};

inline bool is_aligned(const Tensor& tensor) {
  const auto stride = tensor.row_stride() * static_cast<int64_t>(size_of(tensor.dtype()));
  return reinterpret_cast<uintptr_t>(tensor.device_bytes()) % 16 == 0 && stride % 16 == 0;
}

inline ProductPlan make_plan(const Queue& queue, const TiledLayout& layout, const ProductSize& size,
                             bool fits) {
  if (!fits) return {};
  const int64_t row_sets = std::min(size.rows, size.experts);
  const int64_t rows = typical_rows(size.tokens, size.rows, size.experts);
  return plan_product(layout, size.row_tiles, rows, row_sets, queue.num_multiprocessors());
}

inline void set_rows(ProductArgs& args, const Tensor& x, const ExpertRows& rows, const ProductSize& size) {
  args.x = x.device_bytes();
  args.x_stride = x.row_stride() * static_cast<int64_t>(size_of(x.dtype()));
  args.num_rows = static_cast<int>(size.rows);
  args.num_experts = static_cast<int>(size.experts);
  if (rows.all_tokens()) return;
  args.offsets = rows.offsets.device_data<int32_t>();
  args.active = rows.active.device_data<int32_t>();
  args.tokens = rows.tokens.device_data<int32_t>();
}

// The one target of a product of experts.
inline void set_experts(ProductArgs& args, const TiledExperts& experts) {
  const TiledLayout& layout = experts.layout;
  CHORALE_CHECK(experts.count <= kMaxExperts);
  CHORALE_CHECK(experts.stride == 0 || (experts.stride >= layout.bytes() && experts.stride % 16 == 0),
                "{} bytes from one expert to the next", experts.stride);
  args.targets[0] = {.weight = experts.data,
                     .row_tiles = static_cast<int>(layout.row_tiles()),
                     .stored_rows = static_cast<int>(layout.rows())};
  args.expert_bytes = experts.stride_bytes();
  args.n = static_cast<int>(layout.n);
}

// Stored rows of a group of weight tiles.
inline int64_t group_rows(const ProductPlan& plan) {
  if (plan.kernel == ProductKernel::plain) return kPlainRows;
  if (plan.kernel == ProductKernel::few_rows) return kTile;
  return (plan.sharing == Sharing::two_tiles ? 4 : 2) * kTile;
}

inline void set_plan(ProductArgs& args, const TiledLayout& layout, const ProductSize& size,
                     const ProductPlan& plan) {
  args.k = layout.k;
  args.chunk_k = static_cast<int>(layout.chunk_k());
  args.splits = static_cast<int>(plan.k_splits);
  args.chunks = static_cast<int>(layout.k_chunks / plan.k_splits);
  int64_t groups = 0;
  for (int t = 0; t < args.num_targets; ++t) {
    args.targets[t].first_group = static_cast<int>(groups);
    groups += ceil_div(args.targets[t].row_tiles * kTile, group_rows(plan));
  }
  args.row_groups = static_cast<int>(groups);
  if (size.tokens > plan.tokens) args.active = nullptr;  // an expert may have several tiles
  // Experts keep their own rows; a dense product of many rows stays within the second-level cache.
  args.panel = args.offsets != nullptr ? args.row_groups : plan.kernel == ProductKernel::many_rows ? 8 : 1;
  args.weight_policy = plan.kernel == ProductKernel::few_rows ? kEvictFirst : kEvictNormal;
}

// Items at most, so that no more blocks are started than can have work.
inline int64_t most_items(const ProductArgs& args, const ProductSize& size, int64_t tokens) {
  int64_t tiles = ceil_div(size.rows, tokens);
  if (args.offsets != nullptr) {
    tiles += std::min(size.experts, size.rows);
    if (args.active != nullptr) tiles = std::min(size.experts, size.rows);
  }
  return tiles * args.row_groups * args.splits;
}

// A tiled product of the rows of x.
template <class S, class Epilogue>
void start(const Queue& queue, const char* name, const Tensor& x, ProductArgs args, const ProductSize& size) {
  using M = Memory<S, Epilogue>;
  if (!S::kSmallCopies) args.x_map = make_tensor_map(queue, x, S::kTokens);
  queue.enter();
  check(cudaFuncSetAttribute(multiply<S, Epilogue>, cudaFuncAttributeMaxDynamicSharedMemorySize, M::kBytes),
        name, queue.index());
  const int64_t slots = int64_t{queue.num_multiprocessors()} * S::kBlocksPerSm;
  const auto blocks = static_cast<unsigned>(std::min(most_items(args, size, S::kTokens), slots));
  launch(queue, name, multiply<S, Epilogue>, {dim3(blocks), S::kThreads, M::kBytes}, args);
}

template <class Epilogue, class Operands = TensorCoreOperands>
void start_plain(const Queue& queue, const char* name, const ProductArgs& args, const ProductSize& size) {
  const int64_t items = most_items(args, size, kPlainTokens);
  const int64_t slots = int64_t{queue.num_multiprocessors()} * 16;
  const auto blocks = static_cast<unsigned>(std::min(ceil_div(items, kPlainWarps), slots));
  launch(queue, name, multiply_plain<Epilogue, Operands>, {dim3(blocks), kPlainWarps * 32, 0}, args);
}

}  // namespace chorale::cuda
