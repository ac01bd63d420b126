// attention.h and rope.h on the reference device. A token's attention is a plain pass over all keys that it
// sees, in order of position, so it does not matter how a prompt is cut or where its blocks lie.
#include "kernels/ref/attention.h"

#include <array>
#include <cstring>
#include <vector>

#include "kernels/ref/rope.h"
#include "kernels/ref_device/elements.h"
#include "kernels/ref_device/layout.h"
#include "kernels/ref_device/ops.h"

namespace chorale::ref_device {
namespace {

// Calls visit(segment's columns, its block table) for each segment of a step.
template <typename Visit>
void for_each_segment(const AttentionBatch& batch, const Visit& visit) {
  const Tensor segments = follow(batch.segments);
  const Tensor tables = follow(batch.block_tables);
  for (int64_t s = 0; s < segments.rows(); ++s) {
    const int32_t* segment = segments.row<int32_t>(s);
    visit(segment, tables.data<int32_t>() + segment[SegmentColumn::first_block]);
  }
}

// The keys (part 0) or values (1) of the first tokens of a sequence: [tokens, KV * D].
ref::Matrix load_history(const KvCacheView& cache, const int32_t* table, int part, int64_t tokens) {
  const KvRows layout(cache.layout);
  ref::Matrix history(tokens, layout.num_kv_heads * layout.head_dim);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t head = 0; head < layout.num_kv_heads; ++head) {
      std::byte* from =
          follow(cache.data) + layout.offset(table[t / KvRows::kTokens], head, part, t % KvRows::kTokens);
      const ref::Matrix values =
          ref::to_matrix(Tensor(from, layout.dtype, 1, layout.head_dim, layout.head_dim));
      std::copy(values.values.begin(), values.values.end(), &history.at(t, head * layout.head_dim));
    }
  }
  return history;
}

void append_token(const std::array<Tensor, 2>& key_and_value, int64_t row, const KvCacheView& cache,
                  int64_t block, int64_t token) {
  const KvRows layout(cache.layout);
  for (const int part : {0, 1}) {
    const Tensor from = key_and_value[static_cast<size_t>(part)].middle_rows(row, 1);
    for (int64_t head = 0; head < layout.num_kv_heads; ++head) {
      std::memcpy(follow(cache.data) + layout.offset(block, head, part, token),
                  from.middle_columns(head * layout.head_dim, layout.head_dim).bytes(),
                  static_cast<size_t>(layout.token_bytes()));
    }
  }
}

}  // namespace

void append_kv(const Stream& stream, const Tensor& k, const Tensor& v, const AttentionBatch& batch,
               const KvCacheView& cache) {
  enqueue(stream, [=] {
    // Values as the cache has them.
    std::vector<bf16> narrow;
    Tensor values = follow(v);
    if (cache.layout.dtype == DType::bf16) {
      const ref::Matrix wide = load(v);
      for (const float value : wide.values) narrow.push_back(to_bf16(value));
      values = Tensor(narrow.data(), DType::bf16, v.rows(), v.columns(), v.columns());
    }
    for_each_segment(batch, [&](const int32_t* segment, const int32_t* table) {
      for (int64_t i = 0; i < segment[SegmentColumn::num_tokens]; ++i) {
        const int64_t position = segment[SegmentColumn::first_position] + i;
        append_token({follow(k), values}, segment[SegmentColumn::first_token] + i, cache,
                     table[position / KvRows::kTokens], position % KvRows::kTokens);
      }
    });
  });
}

void attention(const Stream& stream, const Tensor& q, const KvCacheView& cache, const AttentionBatch& batch,
               const Tensor&, const Tensor& out) {
  enqueue(stream, [=] {
    const KvLayout& layout = cache.layout;
    const ref::AttentionShape shape{.num_heads = q.columns() / layout.head_dim,
                                    .num_kv_heads = layout.num_kv_heads,
                                    .head_dim = layout.head_dim};
    for_each_segment(batch, [&](const int32_t* segment, const int32_t* table) {
      const int64_t first = segment[SegmentColumn::first_token], tokens = segment[SegmentColumn::num_tokens];
      const int64_t position = segment[SegmentColumn::first_position];
      store(ref::attention(shape, load(q.middle_rows(first, tokens)), position,
                           load_history(cache, table, 0, position + tokens),
                           load_history(cache, table, 1, position + tokens)),
            out.middle_rows(first, tokens));
    });
  });
}

void rope_table(const Stream& stream, const Tensor& positions, const Tensor& frequencies, float scale,
                const Tensor& cos_sin) {
  enqueue(stream, [=] {
    const auto position = load_as<int32_t>(positions).values;
    const ref::Matrix frequency = load(frequencies.first_columns(cos_sin.columns() / 2));
    store(ref::rope_table(position, frequency.values, scale), cos_sin);
  });
}

void norm_rope(const Stream& stream, const Tensor& x, const Tensor& weight, float eps, const Tensor& cos_sin,
               const Tensor& out) {
  enqueue(stream, [=] {
    store(ref::norm_rope(load(x), load(weight.first_columns(cos_sin.columns())), eps, load(cos_sin)), out);
  });
}

}  // namespace chorale::ref_device
