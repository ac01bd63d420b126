// The layers of the model. Each knows its weights and, where ranks add up parts of a result, its
// communicator; none knows where it runs. Shapes are in the words of kernels/shapes.h; T is the number of
// tokens of the step.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/stream.h"
#include "base/tensor.h"
#include "comm/communicator.h"
#include "io/model_config.h"
#include "kernels/attention.h"
#include "kernels/expert_matmul.h"
#include "model/step_inputs.h"
#include "model/weights.h"
#include "model/workspace.h"

namespace chorale::model {

class RmsNorm {
 public:
  RmsNorm(const Tensor& weight, float eps) : weight_(weight), eps_(eps) {}

  // x: float32 [T, H]; out: activations [T, H].
  void forward(const Stream& stream, const Tensor& x, const Tensor& out) const;

 private:
  Tensor weight_;
  float eps_;
};

// A product whose inputs are split over the ranks of a group, added to the residual stream in fixed point, so
// that it does not matter how they are split.
class RowParallelLinear {
 public:
  RowParallelLinear(const PackedMatrix& weight, const Tensor& bias, comm::Communicator group)
      : data_(weight.data), layout_(weight.layout), bias_(bias), group_(group) {}

  // residual += x W^T + bias. x: activations [T, K]; sums: scratch [T, N + 1]; residual: float32 [T, N].
  void forward_add(const Stream& stream, const Tensor& x, const Tensor& sums, const Tensor& residual) const;

 private:
  const std::byte* data_;
  PackedLayout layout_;
  Tensor bias_;
  comm::Communicator group_;
};

class Attention {
 public:
  Attention(const AttentionWeights& weights, const io::ModelConfig& config, comm::Communicator group);

  // residual += attention(x). x: activations [T, H]; residual: float32 [T, H]. Writes the step's keys and
  // values.
  void forward_add(const Stream& stream, const Tensor& x, const AttentionBatch& batch,
                   const KvCacheView& cache, const Workspace& scratch, const Tensor& residual) const;

 private:
  AttentionWeights weights_;
  RowParallelLinear o_proj_;
  int64_t num_heads_;
  float eps_;
};

// Which experts take which tokens.
class Router {
 public:
  Router(const PackedMatrix& weight, const io::ModelConfig& config)
      : weight_(weight), options_{.top_k = config.num_experts_per_tok, .normalize = config.norm_topk_prob} {}

  // x: activations [T, H].
  ExpertRows forward(const Stream& stream, const Tensor& x, const Workspace& scratch) const;

 private:
  PackedMatrix weight_;
  RouteOptions options_;
};

// The experts of a layer with their router; a dense layer is one expert that takes every token.
class FeedForward {
 public:
  FeedForward(const FeedForwardWeights& weights, const io::ModelConfig& config, comm::Communicator group);

  // residual += feed_forward(x). x: activations [T, H]; residual: float32 [T, H].
  void forward_add(const Stream& stream, const Tensor& x, const Workspace& scratch,
                   const Tensor& residual) const;

  bool has_router() const { return router_.has_value(); }

 private:
  Tensor inner(int64_t num_tokens, const Workspace& scratch) const;

  bool is_sparse_;
  // Absent for a dense layer, and for a sparse one with a single expert: softmax over one logit is 1.
  std::optional<Router> router_;
  ExpertMatrices gate_up_;
  ExpertMatrices down_;
  int64_t top_k_;
  comm::Communicator group_;
};

}  // namespace chorale::model
