// Matrix products and attention on a Hopper GPU: the ops of kernels/matmul.h and expert_matmul.h, with a
// queue in place of the stream and tensors in device memory. Each returns before it has run.
//
// Of bf16 matrices the bits of an element are those of kernels/ref/tensor_core.h: blocks of 16 inputs in
// ascending order, from zero for each canonical chunk. They depend on neither the other rows nor on which
// kernel the plan picks. Matrices of float32, for checking, take x of float32; their inputs are added up by
// fused multiply-adds in ascending order, likewise, by kernels that are plain and slow.
#pragma once

#include <span>

#include "base/tensor.h"
#include "kernels/cuda/layout.h"
#include "kernels/cuda/runtime.h"
#include "kernels/expert_matmul.h"

namespace chorale::cuda {

struct TiledMatrix {
  TiledLayout layout;
  const std::byte* data = nullptr;
};
struct TiledTarget {
  TiledMatrix weight;  // [N, K], k_chunks == 1, no pair
  Tensor bias;         // [1, N] float32, or empty
  Tensor out;          // [M, N] float32
};
// The experts' matrices, one after the other or with something between them.
struct TiledExperts {
  TiledLayout layout;
  const std::byte* data = nullptr;
  int64_t count = 1;
  int64_t stride = 0;  // bytes from one matrix to the next, a multiple of 16; 0: they lie without a gap

  int64_t stride_bytes() const { return stride > 0 ? stride : layout.bytes(); }
};

// `plain` takes the kernel that has a form for any shape even where a faster one has, for comparison.
enum class Choice { planned, plain };

// At most kMaxTargets of one K.
void matmul(const Queue& queue, const Tensor& x, std::span<const TiledTarget> targets,
            Choice choice = Choice::planned);

// What the rows of a gated product's input are: tokens, which the product gathers, or the rows of the
// product, which have been gathered before.
enum class RowInput { by_token, by_row };

struct ExpertOptions {
  RowInput input = RowInput::by_token;  // of gated_matmul
  SumMode mode = SumMode::add;          // of order_free_matmul
  bool is_zero = false;                 // likewise: the sums are known to be, whatever the mode
  Choice choice = Choice::planned;
};

// The rows of `out`, and of x in the second, may be more than the rows that there are: their number is read
// on the device. Where rows are grouped, at most kMaxExperts experts.
void gated_matmul(const Queue& queue, const Tensor& x, const TiledExperts& gate_up, const ExpertRows& rows,
                  const Tensor& out, const ExpertOptions& options = {});
void order_free_matmul(const Queue& queue, const Tensor& x, const TiledExperts& down, const ExpertRows& rows,
                       const Tensor& sums, const ExpertOptions& options = {});

// As order_free_partials of kernels/expert_matmul.h: the same partial sums as order_free_matmul's.
PartialSums order_free_partials(const Queue& queue, const Tensor& x, const TiledExperts& down,
                                const ExpertRows& rows, int64_t num_tokens);

}  // namespace chorale::cuda
