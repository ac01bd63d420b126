#include "model/layers.h"

#include <array>

#include "kernels/fixed_point.h"
#include "kernels/matmul.h"
#include "kernels/quantize.h"
#include "kernels/rope.h"
#include "kernels/route.h"
#include "kernels/rows.h"
#include "parallel/topology.h"

namespace chorale::model {
namespace {

// The rows in the form that a matrix multiplies: quantized, in `scratch`, where the matrix is.
Tensor input_of(const Stream& stream, const WeightLayout& layout, const Tensor& x, const Tensor& scratch) {
  if (!is_quantized(layout.format)) return x;
  const Tensor rows = scratch.first_rows(x.rows()).first_columns(quantized_row_bytes(layout));
  quantize_rows(stream, x, layout, rows);
  return rows;
}

}  // namespace

void Update::add_to(const Stream& stream, const Tensor& residual) const {
  if (!partials.empty()) add_partials(stream, partials, sums);
  add_sums(stream, sums, bias, residual);
}

void RmsNorm::forward(const Stream& stream, const Tensor& x, const Tensor& out) const {
  rms_norm(stream, x, norm_.weight, norm_.eps, out);
}

void RmsNorm::add_forward(const Stream& stream, const Update& update, const Tensor& residual,
                          const Tensor& out) const {
  if (update.partials.empty())
    add_sums_norm(stream, update.sums, update.bias, residual, norm_, out);
  else
    add_partials_norm(stream, update.partials, update.bias, residual, norm_, out);
}

void VocabParallelEmbedding::forward(const Stream& stream, const StepInputs& in, const Workspace& scratch,
                                     const Tensor& out) const {
  if (whole_) return embed(stream, in.token_ids.middle_columns(in.home.first, in.home.count), table_, out);
  // Each row comes from the one rank that has it; fixed point would round it, so its bits are added up as an
  // integer.
  const Tensor parts = scratch.sums.first_rows(in.num_tokens());
  embed_bits(stream, in.token_ids, table_, first_row_, parts);
  bits_to_rows(stream, group_.reduce(stream, in.home, parts, scratch.home_sums), out);
}

Update RowParallelLinear::forward(const Stream& stream, const Tensor& x, const Home& home,
                                  const Workspace& scratch) const {
  const Tensor parts = scratch.sums.first_rows(x.rows());
  const Tensor input = input_of(stream, layout_, x, scratch.quantized);
  const ExpertMatrices matrix{layout_, {&data_, 1}};
  const ExpertRows rows{.scratch = scratch.partials};
  if (group_.is_alone()) {
    const PartialSums partials = order_free_partials(stream, input, matrix, rows, x.rows());
    if (!partials.empty()) return {parts, bias_, partials};
  }
  order_free_matmul(stream, input, matrix, rows, parts, SumMode::assign);
  return {group_.reduce(stream, home, parts, scratch.home_sums), bias_};
}

Attention::Attention(const AttentionWeights& weights, const io::ModelConfig& config, const TokenGroup& group)
    : weights_(weights),
      group_(group),
      o_proj_(weights.o_proj, weights.o_bias, group),
      eps_(static_cast<float>(config.rms_norm_eps)) {}

Update Attention::forward(const Stream& stream, const Tensor& x, const StepInputs& in,
                          const KvCacheView& cache, const Workspace& scratch) const {
  const int64_t tokens = in.num_tokens();
  const Tensor q = scratch.q.first_rows(tokens);
  const Tensor k = scratch.k.first_rows(tokens);
  const Tensor v = scratch.v.first_rows(tokens);
  const Tensor cos_sin = scratch.cos_sin.first_rows(tokens);
  const Tensor q_rotated = scratch.q_rotated.first_rows(tokens);
  const Tensor k_rotated = scratch.k_rotated.first_rows(tokens);
  const Tensor attended = scratch.attended.first_rows(tokens);

  const Tensor all = group_.gather(stream, in.home, x, scratch.gathered);
  matmul(stream, input_of(stream, weights_.q_proj.layout, all, scratch.quantized),
         std::array{MatmulTarget{weights_.q_proj, weights_.q_bias, q},
                    MatmulTarget{weights_.k_proj, weights_.k_bias, k},
                    MatmulTarget{weights_.v_proj, weights_.v_bias, v}});
  norm_rope_append(stream, {q, k, v}, {weights_.q_norm, weights_.k_norm, eps_, cos_sin},
                   {q_rotated, k_rotated}, in.batch, cache);
  attention(stream, q_rotated, cache, in.batch, scratch.attention, attended);
  return o_proj_.forward(stream, attended, in.home, scratch);
}

DenseMlp::DenseMlp(const FeedForwardWeights& weights, const TokenGroup& group)
    : gate_up_{weights.gate_up_layout, weights.gate_up},
      down_{weights.down_layout, weights.down},
      group_(group) {}

Update DenseMlp::forward(const Stream& stream, const Tensor& x, const StepInputs& in,
                         const Workspace& scratch) const {
  const int64_t tokens = in.num_tokens();
  const Tensor inner = scratch.dense_inner.first_rows(tokens);
  const Tensor parts = scratch.sums.first_rows(tokens);

  const Tensor all = group_.gather(stream, in.home, x, scratch.gathered);
  gated_matmul(stream, input_of(stream, gate_up_.layout, all, scratch.quantized), gate_up_, {}, inner);
  order_free_matmul(stream, input_of(stream, down_.layout, inner, scratch.quantized_inner), down_, {}, parts,
                    SumMode::assign);
  return {group_.reduce(stream, in.home, parts, scratch.home_sums), {}};
}

Tensor Router::logits_of(const Stream& stream, const Tensor& x, const Workspace& scratch) const {
  const Tensor logits = scratch.router_logits.first_rows(x.rows());
  matmul(stream, x, std::array{MatmulTarget{weight_, {}, logits}});
  return logits;
}

ChosenExperts Router::forward(const Stream& stream, const Tensor& x, const Workspace& scratch) const {
  const ChosenExperts chosen = scratch.chosen(x.rows());
  choose_experts(stream, logits_of(stream, x, scratch), options_, chosen);
  count_experts(stream, chosen.experts, load_);
  return chosen;
}

ExpertRows Router::route(const Stream& stream, const Tensor& x, const Workspace& scratch) const {
  const ExpertRows rows = scratch.expert_rows();
  chorale::route(stream, logits_of(stream, x, scratch), options_, scratch.chosen(x.rows()), rows, load_);
  return rows;
}

SparseMoe::SparseMoe(const FeedForwardWeights& weights, const io::ModelConfig& config,
                     const DispatchTable* table, const comm::Communicator& experts, const Tensor& load)
    : load_(load),
      gate_up_{weights.gate_up_layout, weights.gate_up},
      down_{weights.down_layout, weights.down},
      rows_per_token_(
          std::min<int64_t>(config.num_experts_per_tok, static_cast<int64_t>(weights.gate_up.size()))) {
  if (table != nullptr)
    dispatcher_.emplace(row_format(config, element_dtype(weights.router.layout.format)), *table, experts);
  if (table != nullptr || config.num_experts > 1) router_.emplace(weights.router, config, load);
}

ExpertInput SparseMoe::dispatch(const Stream& stream, const Tensor& x, const StepInputs& in,
                                const Workspace& scratch) {
  if (dispatcher_) {
    const ChosenExperts chosen = router_->forward(stream, x, scratch);
    return dispatcher_->dispatch(stream, x, chosen, in.most_home_tokens, scratch);
  }
  ExpertInput input{x, {.scratch = scratch.partials}, scratch.home_sums.first_rows(x.rows())};
  if (router_)
    input.rows = router_->route(stream, x, scratch);
  else
    count_tokens(stream, x.rows(), load_);
  return input;
}

Tensor SparseMoe::combine(const Stream& stream, const ExpertInput& input, const StepInputs& in,
                          const Workspace& scratch) {
  if (!dispatcher_) return input.sums;
  return dispatcher_->combine(stream, input, in.home.count, in.most_home_tokens, scratch);
}

Update SparseMoe::forward(const Stream& stream, const Tensor& x, const StepInputs& in,
                          const Workspace& scratch) {
  const ExpertInput input = dispatch(stream, x, in, scratch);
  const Tensor inner = scratch.expert_inner.first_rows(input.x.rows() * rows_per_token_);
  gated_matmul(stream, input_of(stream, gate_up_.layout, input.x, scratch.quantized), gate_up_, input.rows,
               inner);
  const Tensor down_input = input_of(stream, down_.layout, inner, scratch.quantized_inner);
  if (!dispatcher_) {
    const PartialSums partials = order_free_partials(stream, down_input, down_, input.rows, x.rows());
    if (!partials.empty()) return {input.sums, {}, partials};
    if (router_) clear_sums(stream, input.sums);
  }
  order_free_matmul(stream, down_input, down_, input.rows, input.sums,
                    input.rows.all_tokens() ? SumMode::assign : SumMode::add_to_zeros);
  return {combine(stream, input, in, scratch), {}};
}

LmHead::LmHead(const WeightMatrix& weight, const RankExtent& extent, const io::ModelConfig& config,
               TokenGroup group)
    : weight_(weight), group_(std::move(group)) {
  const parallel::ShardedSizes sizes = sharded_sizes(config);
  const int64_t chunks = sizes.chunks(sizes.vocab);
  for (int64_t r = 0; r < extent.tp_size; ++r) {
    const auto range = parallel::even_range(chunks, static_cast<int>(extent.tp_size), static_cast<int>(r));
    columns_of_.push_back(parallel::elements_of_chunks(range, sizes.vocab, sizes).size());
  }
}

Tensor LmHead::forward(const Stream& stream, const Tensor& x, const StepInputs& in,
                       const Workspace& scratch) const {
  const int64_t rows = in.num_logits_rows;
  const comm::Communicator& group = group_.communicator();
  if (group.size() == 1) {
    const Tensor logits = scratch.logits.first_rows(rows);
    matmul(stream, input_of(stream, weight_.layout, x, scratch.quantized),
           std::array{MatmulTarget{weight_, {}, logits}});
    return logits;
  }
  const auto me = static_cast<size_t>(group.rank());
  const Tensor all = scratch.last_gathered.first_rows(rows);
  const Tensor part = scratch.part_logits.first_rows(rows);
  group.all_gather_rows(stream, x, in.home.logits_rows_of, all, comm::Purpose::logits);
  if (columns_of_[me] > 0) {
    matmul(stream, input_of(stream, weight_.layout, all, scratch.quantized),
           std::array{MatmulTarget{weight_, {}, part.first_columns(columns_of_[me])}});
  }
  const bool first = group.rank() == 0;
  const Tensor parts = first ? scratch.gathered_logits.first_rows(group.size() * rows) : Tensor();
  group.gather_equal_rows(stream, part, parts, 0, comm::Purpose::logits);
  if (!first) return {};
  const Tensor logits = scratch.logits.first_rows(rows);
  int64_t column = 0;
  for (size_t r = 0; r < columns_of_.size(); ++r) {
    copy_rows(stream, parts.middle_rows(static_cast<int64_t>(r) * rows, rows).first_columns(columns_of_[r]),
              logits.middle_columns(column, columns_of_[r]));
    column += columns_of_[r];
  }
  return logits;
}

}  // namespace chorale::model
