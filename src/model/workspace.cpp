#include "model/workspace.h"

#include <algorithm>
#include <vector>

namespace chorale::model {
namespace {

struct Piece {
  Tensor Workspace::*member;
  DType dtype;
  int64_t rows;
  int64_t columns;
};

bool has_dense_layer(const io::ModelConfig& config) {
  for (int64_t l = 0; l < config.num_hidden_layers; ++l) {
    if (!config.is_sparse_layer(l)) return true;
  }
  return false;
}

std::vector<Piece> pieces(const io::ModelConfig& config, DType act, const StepLimits& limits) {
  using W = Workspace;
  const int64_t tokens = limits.max_tokens;
  const int64_t rows = limits.max_logits_rows;
  const int64_t hidden = config.hidden_size;
  const int64_t query = config.num_attention_heads * config.head_dim;
  const int64_t kv = config.num_key_value_heads * config.head_dim;
  // A model without sparse layers routes nothing; one expert keeps the shapes valid.
  const int64_t experts = std::max<int64_t>(config.num_experts, 1);
  const int64_t top_k = std::max<int64_t>(config.num_experts_per_tok, 1);
  return {
      {&W::residual, DType::f32, tokens, hidden},
      {&W::normed, act, tokens, hidden},
      {&W::cos_sin, DType::f32, tokens, config.head_dim},
      {&W::q, DType::f32, tokens, query},
      {&W::k, DType::f32, tokens, kv},
      {&W::v, DType::f32, tokens, kv},
      {&W::q_rotated, act, tokens, query},
      {&W::k_rotated, act, tokens, kv},
      {&W::attended, act, tokens, query},
      {&W::sums, DType::i64, tokens, hidden + 1},
      {&W::router_logits, DType::f32, tokens, experts},
      {&W::chosen_experts, DType::i32, tokens, top_k},
      {&W::chosen_weights, DType::f32, tokens, top_k},
      {&W::row_offsets, DType::i32, 1, experts + 1},
      {&W::row_active, DType::i32, 1, experts + 1},
      {&W::row_tokens, DType::i32, 1, tokens * top_k},
      {&W::row_weights, DType::f32, 1, tokens * top_k},
      {&W::expert_inner, act, config.moe_intermediate_size > 0 ? tokens * top_k : 0,
       config.moe_intermediate_size},
      {&W::dense_inner, act, has_dense_layer(config) ? tokens : 0, config.intermediate_size},
      {&W::last_hidden, DType::f32, rows, hidden},
      {&W::last_normed, act, rows, hidden},
  };
}

}  // namespace

size_t Workspace::bytes(const io::ModelConfig& config, DType act, const StepLimits& limits) {
  size_t total =
      Arena::footprint(static_cast<size_t>(limits.max_logits_rows * config.vocab_size) * sizeof(float));
  for (const Piece& piece : pieces(config, act, limits)) {
    total += Arena::matrix_bytes(piece.dtype, piece.rows, piece.columns);
  }
  return total;
}

Workspace::Workspace(const io::ModelConfig& config, DType act, const StepLimits& limits)
    : arena(bytes(config, act, limits)) {
  for (const Piece& piece : pieces(config, act, limits)) {
    this->*piece.member = arena.matrix(piece.dtype, piece.rows, piece.columns);
  }
  const int64_t vocab = config.vocab_size;
  const auto logits_bytes = static_cast<size_t>(limits.max_logits_rows * vocab) * sizeof(float);
  logits = Tensor(arena.take(logits_bytes).data(), DType::f32, limits.max_logits_rows, vocab, vocab);
}

ChosenExperts Workspace::chosen(int64_t num_tokens) const {
  return {chosen_experts.first_rows(num_tokens), chosen_weights.first_rows(num_tokens)};
}

ExpertRows Workspace::expert_rows() const {
  return {row_offsets, row_active, row_tokens, row_weights};
}

}  // namespace chorale::model
