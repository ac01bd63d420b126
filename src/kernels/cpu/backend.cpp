#include "kernels/backend.h"

#include "kernels/cpu/kv_panels.h"
#include "kernels/cpu/ops.h"
#include "kernels/cpu/packed_matrix.h"

namespace chorale::cpu {

const Backend& backend() {
  static constexpr Backend table{
      .has_quantized_weights = true,
      .has_int8_kv_cache = true,
      .kv_block_tokens = kKvBlockTokens,
      .kv_block_bytes = [](const KvLayout& layout) { return KvPanels(layout).block_bytes(); },
      .max_sample_places = 32,  // more threads than that find no row
      .attention_scratch = [](const KvLayout&, int64_t) { return int64_t{0}; },
      .partials_scratch = [](const WeightLayout&, int64_t, int64_t) { return int64_t{0}; },
      .weight_bytes = [](const WeightLayout& layout) { return PackedLayout(layout).bytes(); },
      .output_chunk_offset = [](const WeightLayout& layout,
                                int64_t first) { return first * PackedLayout(layout).chunk_bytes(); },
      .matmul = matmul,
      .gated_matmul = gated_matmul,
      .order_free_matmul = order_free_matmul,
      .quantize_rows = quantize_rows,
      .append_kv = append_kv,
      .attention = attention,
      .rope_table = rope_table,
      .norm_rope = norm_rope,
      .rms_norm = rms_norm,
      .embed = embed,
      .embed_bits = embed_bits,
      .bits_to_rows = bits_to_rows,
      .copy_rows = copy_rows,
      .gather_rows = gather_rows,
      .clear_sums = clear_sums,
      .add_sums = add_sums,
      .choose_experts = choose_experts,
      .sort_by_expert = sort_by_expert,
      .dispatch_rows = dispatch_rows,
      .add_returned = add_returned,
      .count_experts = count_experts,
      .count_tokens = count_tokens,
      .sample_scratch_bytes = sample_scratch_bytes,
      .sample = sample,
      .place_tokens = place_tokens,
      .clear_counts = clear_counts,
      .add_counts = count_tokens,
  };
  return table;
}

}  // namespace chorale::cpu
