#include "model/layers.h"

#include <array>

#include "kernels/fixed_point.h"
#include "kernels/matmul.h"
#include "kernels/rope.h"
#include "kernels/route.h"
#include "kernels/rows.h"

namespace chorale::model {

void RmsNorm::forward(const Stream& stream, const Tensor& x, const Tensor& out) const {
  rms_norm(stream, x, weight_, eps_, out);
}

void RowParallelLinear::forward_add(const Stream& stream, const Tensor& x, const Tensor& sums,
                                    const Tensor& residual) const {
  clear_sums(stream, sums);
  order_free_matmul(stream, x, {layout_, {&data_, 1}}, {}, sums);
  group_.all_reduce_sum(stream, sums, comm::Purpose::attention);
  add_sums(stream, sums, bias_, residual);
}

Attention::Attention(const AttentionWeights& weights, const io::ModelConfig& config, comm::Communicator group)
    : weights_(weights),
      o_proj_(weights.o_proj, weights.o_bias, group),
      num_heads_(weights.q_proj.layout.n / config.head_dim),
      eps_(static_cast<float>(config.rms_norm_eps)) {}

void Attention::forward_add(const Stream& stream, const Tensor& x, const AttentionBatch& batch,
                            const KvCacheView& cache, const Workspace& scratch,
                            const Tensor& residual) const {
  const int64_t tokens = x.rows();
  const Tensor q = scratch.q.first_rows(tokens);
  const Tensor k = scratch.k.first_rows(tokens);
  const Tensor v = scratch.v.first_rows(tokens);
  const Tensor cos_sin = scratch.cos_sin.first_rows(tokens);
  const Tensor q_rotated = scratch.q_rotated.first_rows(tokens);
  const Tensor k_rotated = scratch.k_rotated.first_rows(tokens);
  const Tensor attended = scratch.attended.first_rows(tokens);

  matmul(stream, x,
         std::array{MatmulTarget{weights_.q_proj, weights_.q_bias, q},
                    MatmulTarget{weights_.k_proj, weights_.k_bias, k},
                    MatmulTarget{weights_.v_proj, weights_.v_bias, v}});
  norm_rope(stream, q, weights_.q_norm, eps_, cos_sin, q_rotated);
  norm_rope(stream, k, weights_.k_norm, eps_, cos_sin, k_rotated);
  append_kv(stream, k_rotated, v, batch, cache);
  attention(stream, q_rotated, cache, batch, num_heads_, attended);
  o_proj_.forward_add(stream, attended, scratch.sums.first_rows(tokens), residual);
}

ExpertRows Router::forward(const Stream& stream, const Tensor& x, const Workspace& scratch) const {
  const Tensor logits = scratch.router_logits.first_rows(x.rows());
  const ChosenExperts chosen = scratch.chosen(x.rows());
  const ExpertRows rows = scratch.expert_rows();
  matmul(stream, x, std::array{MatmulTarget{weight_, {}, logits}});
  choose_experts(stream, logits, options_, chosen);
  sort_by_expert(stream, chosen, rows);
  return rows;
}

FeedForward::FeedForward(const FeedForwardWeights& weights, const io::ModelConfig& config,
                         comm::Communicator group)
    : is_sparse_(weights.is_sparse()),
      gate_up_{weights.gate_up_layout, weights.gate_up},
      down_{weights.down_layout, weights.down},
      top_k_(weights.is_sparse() ? config.num_experts_per_tok : 1),
      group_(group) {
  if (weights.gate_up.size() > 1) router_.emplace(weights.router, config);
}

Tensor FeedForward::inner(int64_t num_tokens, const Workspace& scratch) const {
  return (is_sparse_ ? scratch.expert_inner : scratch.dense_inner).first_rows(num_tokens * top_k_);
}

void FeedForward::forward_add(const Stream& stream, const Tensor& x, const Workspace& scratch,
                              const Tensor& residual) const {
  const Tensor inner_rows = inner(x.rows(), scratch);
  const Tensor sums = scratch.sums.first_rows(x.rows());
  const ExpertRows rows = router_ ? router_->forward(stream, x, scratch) : ExpertRows{};
  gated_matmul(stream, x, gate_up_, rows, inner_rows);
  clear_sums(stream, sums);
  order_free_matmul(stream, inner_rows, down_, rows, sums);
  group_.all_reduce_sum(stream, sums, comm::Purpose::attention);
  add_sums(stream, sums, {}, residual);
}

}  // namespace chorale::model
