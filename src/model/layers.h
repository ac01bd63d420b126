// The layers of the model on one rank. Each knows its part of the weights and, where ranks exchange data, the
// group; none knows where it runs. Shapes are in the letters of kernels/shapes.h.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "base/stream.h"
#include "base/tensor.h"
#include "io/model_config.h"
#include "kernels/attention.h"
#include "kernels/expert_matmul.h"
#include "kernels/fixed_point.h"
#include "model/rank_plan.h"
#include "model/step_inputs.h"
#include "model/token_dispatcher.h"
#include "model/token_group.h"
#include "model/weights.h"
#include "model/workspace.h"

namespace chorale::model {

// What a layer adds to the residual stream, still in fixed point: of the home tokens. Valid until the next
// layer runs.
struct Update {
  Tensor sums;             // int64 [U, H + 1]
  Tensor bias;             // float32 [1, H], or empty
  PartialSums partials{};  // unless empty, the sums are still to be made of these

  // residual += this. residual: float32 [U, H].
  void add_to(const Stream& stream, const Tensor& residual) const;
};

class RmsNorm {
 public:
  RmsNorm(const Tensor& weight, float eps) : norm_{weight, eps} {}

  // x: float32 [U, H]; out: activations [U, H].
  void forward(const Stream& stream, const Tensor& x, const Tensor& out) const;
  // residual += update, then of that.
  void add_forward(const Stream& stream, const Update& update, const Tensor& residual,
                   const Tensor& out) const;

 private:
  NormWeight norm_;
};

// The embedding, of which a rank holds some rows or all.
class VocabParallelEmbedding {
 public:
  VocabParallelEmbedding(const Tensor& table, int64_t first_row, int64_t vocab_size, TokenGroup group)
      : table_(table), first_row_(first_row), whole_(table.rows() == vocab_size), group_(std::move(group)) {}

  // out = the rows of the home tokens, float32 [U, H].
  void forward(const Stream& stream, const StepInputs& in, const Workspace& scratch, const Tensor& out) const;

 private:
  Tensor table_;
  int64_t first_row_;
  bool whole_;
  TokenGroup group_;
};

// A product whose inputs are split over the ranks of the group. Its result is added up in fixed point, so it
// does not matter how they are split.
class RowParallelLinear {
 public:
  RowParallelLinear(const WeightMatrix& weight, const Tensor& bias, TokenGroup group)
      : data_(weight.data), layout_(weight.layout), bias_(bias), group_(std::move(group)) {}

  // x W^T + bias. x: activations of all tokens [T, K part].
  Update forward(const Stream& stream, const Tensor& x, const Home& home, const Workspace& scratch) const;

 private:
  const std::byte* data_;
  WeightLayout layout_;
  Tensor bias_;
  TokenGroup group_;
};

class Attention {
 public:
  Attention(const AttentionWeights& weights, const io::ModelConfig& config, const TokenGroup& group);

  // attention(x), for the home tokens. x: activations [U, H]. Writes the step's keys and values.
  Update forward(const Stream& stream, const Tensor& x, const StepInputs& in, const KvCacheView& cache,
                 const Workspace& scratch) const;

 private:
  AttentionWeights weights_;
  TokenGroup group_;
  RowParallelLinear o_proj_;
  float eps_;
};

// A dense layer: gate and up are split by output, down by input.
class DenseMlp {
 public:
  DenseMlp(const FeedForwardWeights& weights, const TokenGroup& group);

  // mlp(x), for the home tokens. x: activations [U, H].
  Update forward(const Stream& stream, const Tensor& x, const StepInputs& in, const Workspace& scratch) const;

 private:
  ExpertMatrices gate_up_;
  ExpertMatrices down_;
  TokenGroup group_;
};

// Which experts take which tokens. Counts them.
class Router {
 public:
  // load: int64 [1, E], to which the number of tokens of each expert is added.
  Router(const WeightMatrix& weight, const io::ModelConfig& config, const Tensor& load)
      : weight_(weight),
        options_{.top_k = config.num_experts_per_tok, .normalize = config.norm_topk_prob},
        load_(load) {}

  // x: activations [U, H].
  ChosenExperts forward(const Stream& stream, const Tensor& x, const Workspace& scratch) const;
  // The same, sorted by expert, where all experts are here.
  ExpertRows route(const Stream& stream, const Tensor& x, const Workspace& scratch) const;

 private:
  Tensor logits_of(const Stream& stream, const Tensor& x, const Workspace& scratch) const;

  WeightMatrix weight_;
  RouteOptions options_;
  Tensor load_;
};

// A layer of experts, of which this rank has some, or a part of each.
class SparseMoe {
 public:
  // `table` is null when no token travels; then the experts lie in their logical order.
  SparseMoe(const FeedForwardWeights& weights, const io::ModelConfig& config, const DispatchTable* table,
            const comm::Communicator& experts, const Tensor& load);

  // experts(x), for the home tokens. x: activations [U, H].
  Update forward(const Stream& stream, const Tensor& x, const StepInputs& in, const Workspace& scratch);

  bool has_router() const { return router_.has_value(); }

 private:
  ExpertInput dispatch(const Stream& stream, const Tensor& x, const StepInputs& in, const Workspace& scratch);
  Tensor combine(const Stream& stream, const ExpertInput& input, const StepInputs& in,
                 const Workspace& scratch);

  // Absent for a single expert that every rank has: softmax over one logit is 1.
  std::optional<Router> router_;
  Tensor load_;  // int64 [1, E]
  std::optional<TokenDispatcher> dispatcher_;
  ExpertMatrices gate_up_;
  ExpertMatrices down_;
  int64_t rows_per_token_;
};

// The head, split by output; the group's first rank gets all logits.
class LmHead {
 public:
  LmHead(const WeightMatrix& weight, const RankExtent& extent, const io::ModelConfig& config,
         TokenGroup group);

  // x: activations of this rank's rows [., H]. Returns the logits of all rows [L, V], or nothing on the other
  // ranks.
  Tensor forward(const Stream& stream, const Tensor& x, const StepInputs& in, const Workspace& scratch) const;

 private:
  WeightMatrix weight_;
  std::vector<int64_t> columns_of_;  // each rank's outputs, by rank of the TP group
  TokenGroup group_;
};

}  // namespace chorale::model
