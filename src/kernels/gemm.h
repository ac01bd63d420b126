// General matrix products in float32, for fitting weights: forward products, gradients and Gram matrices.
//
// Unlike matmul.h, no operand has to be packed in advance, either may be transposed, and the result may be
// added to what is there. Each element of C accumulates its K products in an order that depends on K alone:
// in blocks of K, each summed in order and then added to the sum of the blocks before it.
#pragma once

#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/shapes.h"

namespace chorale {

struct GemmOperand {
  Tensor matrix;  // float32; its row padding is not read
  bool transposed = false;

  // Those of the operand itself.
  int64_t rows() const { return transposed ? matrix.columns() : matrix.rows(); }
  int64_t columns() const { return transposed ? matrix.rows() : matrix.columns(); }
};

// A right operand B [K, N] in the panels that products read. It owns their memory, which grows on demand and
// is reused by the next pack_rhs(). Any number of products may read it at a time.
class PackedRhs {
 public:
  int64_t k() const { return k_; }
  int64_t n() const { return n_; }
  const float* data() const { return reinterpret_cast<const float*>(buffer_.data()); }

 private:
  friend void pack_rhs(const Stream& stream, const GemmOperand& b, PackedRhs& packed);

  Buffer buffer_;  // [block of K][panel][K of the block][16], the last panel filled up with zeros
  int64_t k_ = 0;
  int64_t n_ = 0;
};

// Packs B ([K, N], or [N, K] where transposed), for several products with the same right operand. Allocates
// when `packed` is smaller than B.
void pack_rhs(const Stream& stream, const GemmOperand& b, PackedRhs& packed);

enum class GemmMode { assign, accumulate };

// Memory that gemm() packs its right operand into. One serves all products of a stream: it grows to the
// largest.
class GemmScratch {
 private:
  friend void gemm(const Stream& stream, const GemmOperand& a, const GemmOperand& b, const Tensor& c,
                   GemmMode mode, GemmScratch& scratch);

  PackedRhs rhs_;
};

// C = A * B, or C += A * B. A: [M, K], or [K, M] where transposed; B: [K, N], or [N, K] where transposed; C:
// [M, N]; all float32. C must not overlap A or B. Not for the forward pass of the model: it may allocate.
void gemm(const Stream& stream, const GemmOperand& a, const GemmOperand& b, const Tensor& c, GemmMode mode,
          GemmScratch& scratch);

// The same with B packed before; never allocates.
void gemm(const Stream& stream, const GemmOperand& a, const PackedRhs& b, const Tensor& c, GemmMode mode);

}  // namespace chorale
