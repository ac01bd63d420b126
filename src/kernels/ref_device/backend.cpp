#include "kernels/backend.h"

#include "base/error.h"
#include "kernels/ref_device/driver.h"
#include "kernels/ref_device/layout.h"
#include "kernels/ref_device/ops.h"

namespace chorale::ref_device {

const Backend& backend() {
  static constexpr Backend table{
      .has_quantized_weights = false,
      .has_int8_kv_cache = false,
      .kv_block_tokens = KvRows::kTokens,
      .kv_block_bytes = [](const KvLayout& layout) { return KvRows(layout).block_bytes(); },
      .attention_scratch = [](const KvLayout&, int64_t) { return int64_t{0}; },
      .partials_scratch = partials_scratch,
      .weight_bytes = [](const WeightLayout& layout) { return RowMajor(layout).bytes(); },
      .output_chunk_offset = [](const WeightLayout& layout,
                                int64_t first) { return first * RowMajor(layout).output_chunk_bytes(); },
      .pack_rows = pack_rows,
      .matmul = matmul,
      .gated_matmul = gated_matmul,
      .order_free_matmul = order_free_matmul,
      .quantize_rows = [](const Stream&, const Tensor&, const WeightLayout&,
                          const Tensor&) { CHORALE_CHECK(false, "no quantized weights"); },
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
      .order_free_partials = order_free_partials,
      .add_partials = add_partials,
      .add_partials_norm = add_partials_norm,
      .sample_scratch_bytes = [](int64_t) { return int64_t{0}; },
      .sample = sample,
      .place_tokens = place_tokens,
      .clear_counts = clear_counts,
      .add_counts = count_tokens,
  };
  return table;
}

std::unique_ptr<DeviceDriver> open(int index) {
  return std::make_unique<Driver>(index);
}

}  // namespace chorale::ref_device
