#include "model/workspace.h"

#include <algorithm>
#include <vector>

#include "kernels/backend.h"

namespace chorale::model {
namespace {

struct Piece {
  Tensor Workspace::*member;
  DType dtype;
  int64_t rows;
  int64_t columns;
};

using W = Workspace;

void add_attention(std::vector<Piece>& pieces, const io::ModelConfig& config, const WeightFormats& formats,
                   const StepLimits& limits, const RankExtent& extent) {
  const DType act = formats.dtype;
  const int64_t tokens = limits.max_tokens;
  const int64_t home = extent.max_home_tokens;
  const int64_t hidden = config.hidden_size;
  const int64_t query = extent.query_heads * config.head_dim;
  const int64_t kv = extent.kv_heads * config.head_dim;
  const Backend& backend = backend_of(formats.device);
  const int64_t attention_scratch = backend.attention_scratch(
      {.dtype = act, .num_kv_heads = extent.kv_heads, .head_dim = config.head_dim}, limits.max_table_blocks);
  pieces.insert(pieces.end(), {{&W::residual, DType::f32, home, hidden},
                               {&W::normed, act, home, hidden},
                               {&W::gathered, act, extent.tp_size > 1 ? tokens : 0, hidden},
                               {&W::cos_sin, DType::f32, tokens, config.head_dim},
                               {&W::q, DType::f32, tokens, query},
                               {&W::k, DType::f32, tokens, kv},
                               {&W::v, DType::f32, tokens, kv},
                               {&W::q_rotated, act, tokens, query},
                               {&W::k_rotated, act, tokens, kv},
                               {&W::attended, act, tokens, query},
                               {&W::sums, DType::i64, tokens, hidden + 1},
                               {&W::home_sums, DType::i64, home, hidden + 1},
                               {&W::attention, DType::f32, 1, attention_scratch},
                               {&W::dense_inner, act, extent.dense_intermediate > 0 ? tokens : 0,
                                extent.dense_intermediate}});
}

void add_experts(std::vector<Piece>& pieces, const io::ModelConfig& config, DType act,
                 const RankExtent& extent) {
  const int64_t home = extent.max_home_tokens;
  const int64_t hidden = config.hidden_size;
  // A model without sparse layers routes nothing; one expert keeps the shapes valid.
  const int64_t model_experts = std::max<int64_t>(config.num_experts, 1);
  const int64_t top_k = std::max<int64_t>(config.num_experts_per_tok, 1);
  const int64_t experts = std::max<int64_t>(extent.num_experts, 1);
  const int64_t received = extent.max_received_rows;
  const int64_t pairs = received * std::min(top_k, experts);
  const int64_t sent = extent.max_sent_rows;
  const int64_t travelling = extent.dispatches ? received : 0;
  const int64_t ranks = extent.dispatches ? extent.group_size : 0;
  const int64_t owners = ranks / extent.copies;
  const int64_t row = row_format(config, act).bytes();
  pieces.insert(pieces.end(), {{&W::router_logits, DType::f32, home, model_experts},
                               {&W::chosen_experts, DType::i32, home, top_k},
                               {&W::chosen_weights, DType::f32, home, top_k},
                               {&W::row_offsets, DType::i32, 1, experts + 1},
                               {&W::row_active, DType::i32, 1, experts + 1},
                               {&W::row_tokens, DType::i32, 1, pairs},
                               {&W::row_weights, DType::f32, 1, pairs},
                               {&W::expert_inner, act, extent.expert_intermediate > 0 ? pairs : 0,
                                extent.expert_intermediate},
                               {&W::owner_tokens, DType::i32, owners, home},
                               {&W::sent_counts, DType::i64, 1, ranks},
                               {&W::received_counts, DType::i64, 1, ranks},
                               {&W::sent_tokens, DType::i32, 1, sent},
                               {&W::send_rows, DType::u8, sent, row},
                               {&W::received_rows, DType::u8, travelling, row},
                               {&W::received_sums, DType::i64, travelling, hidden + 1},
                               {&W::returned_sums, DType::i64, sent, hidden + 1}});
}

void add_head(std::vector<Piece>& pieces, const io::ModelConfig& config, DType act, const StepLimits& limits,
              const RankExtent& extent) {
  const int64_t rows = limits.max_logits_rows;
  const bool several = extent.tp_size > 1;
  const bool gathers = several && extent.tp_rank == 0;
  pieces.insert(pieces.end(), {{&W::last_hidden, DType::f32, rows, config.hidden_size},
                               {&W::last_normed, act, rows, config.hidden_size},
                               {&W::last_gathered, act, several ? rows : 0, config.hidden_size},
                               {&W::part_logits, DType::f32, several ? rows : 0, extent.head_columns},
                               {&W::gathered_logits, DType::f32, gathers ? extent.tp_size * rows : 0,
                                extent.head_columns}});
}

// Memory for the partial sums of any matrix whose results are added up.
void add_partials(std::vector<Piece>& pieces, const io::ModelConfig& config, const WeightFormats& formats,
                  const StepLimits& limits, const RankExtent& extent) {
  const WeightLayout layout{.format = formats.linear,
                            .n = config.hidden_size,
                            .k = extent.fewest_chunks,
                            .k_chunks = extent.fewest_chunks};
  const int64_t tokens = std::max(limits.max_tokens, extent.max_received_rows);
  const int64_t most = std::min(config.num_experts_per_tok, extent.num_experts);  // of a token
  const int64_t scratch =
      backend_of(formats.device).partials_scratch(layout, tokens * std::max<int64_t>(most, 1), tokens);
  pieces.push_back({&W::partials, DType::f32, 1, scratch});
}

// Bytes of a quantized row of k inputs in at most kMaxChunks chunks, at the most: groups of 8 inputs beside 8
// bytes, the last one of each chunk with one input.
int64_t most_quantized_bytes(int64_t k) {
  constexpr int64_t kMaxChunks = 8;
  return 2 * (k + 7 * kMaxChunks);
}

void add_quantized(std::vector<Piece>& pieces, const io::ModelConfig& config, const StepLimits& limits,
                   const RankExtent& extent) {
  const int64_t rows = std::max({limits.max_tokens, extent.max_received_rows, limits.max_logits_rows});
  const int64_t experts = std::max<int64_t>(extent.num_experts, 1);
  const int64_t pairs =
      extent.max_received_rows * std::min(std::max<int64_t>(config.num_experts_per_tok, 1), experts);
  const int64_t inner = std::max(extent.dense_intermediate, extent.expert_intermediate);
  pieces.insert(
      pieces.end(),
      {{&W::quantized, DType::u8, rows,
        most_quantized_bytes(std::max(config.hidden_size, extent.query_heads * config.head_dim))},
       {&W::quantized_inner, DType::u8, std::max(limits.max_tokens, pairs), most_quantized_bytes(inner)}});
}

std::vector<Piece> pieces_of(const io::ModelConfig& config, const WeightFormats& formats,
                             const StepLimits& limits, const RankExtent& extent) {
  const DType act = formats.dtype;
  std::vector<Piece> pieces;
  add_attention(pieces, config, formats, limits, extent);
  add_experts(pieces, config, act, extent);
  add_partials(pieces, config, formats, limits, extent);
  add_head(pieces, config, act, limits, extent);
  if (formats.quantizes()) add_quantized(pieces, config, limits, extent);
  return pieces;
}

int64_t logits_rows(const StepLimits& limits, const RankExtent& extent) {
  return extent.tp_rank == 0 ? limits.max_logits_rows : 0;
}

}  // namespace

RowFormat row_format(const io::ModelConfig& config, DType act) {
  return {
      .act = act, .hidden = config.hidden_size, .top_k = std::max<int64_t>(config.num_experts_per_tok, 1)};
}

size_t Workspace::bytes(const io::ModelConfig& config, const WeightFormats& formats, const StepLimits& limits,
                        const RankExtent& extent) {
  size_t total = Arena::dense_matrix_bytes(DType::f32, logits_rows(limits, extent), config.vocab_size);
  for (const Piece& piece : pieces_of(config, formats, limits, extent)) {
    total += Arena::matrix_bytes(piece.dtype, piece.rows, piece.columns);
  }
  return total;
}

Workspace::Workspace(const io::ModelConfig& config, const WeightFormats& formats, const StepLimits& limits,
                     const RankExtent& extent, Device device)
    : arena(bytes(config, formats, limits, extent), device) {
  for (const Piece& piece : pieces_of(config, formats, limits, extent)) {
    this->*piece.member = arena.matrix(piece.dtype, piece.rows, piece.columns);
  }
  logits = arena.dense_matrix(DType::f32, logits_rows(limits, extent), config.vocab_size);
}

ChosenExperts Workspace::chosen(int64_t num_tokens) const {
  return {chosen_experts.first_rows(num_tokens), chosen_weights.first_rows(num_tokens)};
}

ExpertRows Workspace::expert_rows() const {
  return {row_offsets, row_active, row_tokens, row_weights, partials};
}

}  // namespace chorale::model
