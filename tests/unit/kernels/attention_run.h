// Sequences that are run through append_kv and attention in steps, over a paged cache.
#pragma once

#include <numeric>

#include "base/math.h"
#include "kernels/attention.h"
#include "unit/kernels/kernel_test.h"

namespace chorale {

// What every test of attention runs over: instruction sets, and caches of each dtype.
class AttentionBackendTest : public testing::TestWithParam<Variant> {
 protected:
  DType cache_dtype() const { return GetParam().dtype; }
  DType dtype() const { return KvLayout{.dtype = cache_dtype()}.activation_dtype(); }
  std::array<Stream, 2> all_streams() const { return streams(GetParam().isa); }
  Stream stream() const { return all_streams()[0]; }

 private:
  OnDevice device_{GetParam().device};
};
inline std::vector<Variant> all_attention_variants() {
  std::vector<Variant> variants = all_variants();
  for (InstructionSet isa : available_instruction_sets()) variants.push_back({isa, DType::i8});
  return variants;
}

struct HeadShape {
  int64_t kv_heads, group, head_dim;
  int64_t heads() const { return kv_heads * group; }
};
inline std::ostream& operator<<(std::ostream& out, const HeadShape& s) {
  return out << s.kv_heads << " KV heads x " << s.group << " of " << s.head_dim;
}

// What the projections made of a sequence's tokens. q: [tokens, Q * D]; k, v: [tokens, KV * D].
struct TestSequence {
  ref::Matrix q, k, v;
  int64_t tokens() const { return q.rows; }
};
// v is what norm_rope does not touch: float32 in either mode.
inline TestSequence random_sequence(Random& random, const HeadShape& shape, int64_t tokens, DType dtype) {
  return {random_matrix(random, tokens, shape.heads() * shape.head_dim, dtype),
          random_matrix(random, tokens, shape.kv_heads * shape.head_dim, dtype),
          random_matrix(random, tokens, shape.kv_heads * shape.head_dim, DType::f32)};
}

// `count` tokens of a sequence from `first` on: one segment of a step.
struct Piece {
  size_t sequence;
  int64_t first, count;
};

// A cache with room for some sequences, and what attention gave for each of their tokens.
class AttentionRun {
 public:
  // Block ids are ascending for seed 0, else shuffled with gaps. Every byte of the cache begins as `garbage`;
  // 0xFF is NaN everywhere but in the values of int8.
  AttentionRun(const Stream& stream, DType cache_dtype, const HeadShape& shape,
               std::vector<TestSequence> sequences, uint32_t seed = 0, uint8_t garbage = 0xFF)
      : stream_(stream),
        shape_(shape),
        layout_{cache_dtype, shape.kv_heads, shape.head_dim},
        sequences_(std::move(sequences)),
        num_blocks_(blocks_needed() + (seed == 0 ? 0 : 5)),
        cache_(DType::u8, 1, num_blocks_ * current_backend().kv_block_bytes(layout_)) {
    std::memset(cache_->bytes(), garbage, static_cast<size_t>(cache_->columns()));
    std::vector<int32_t> ids(static_cast<size_t>(num_blocks_));
    std::iota(ids.begin(), ids.end(), 0);
    Random random(seed);
    if (seed != 0) std::shuffle(ids.begin(), ids.end(), random);
    for (const TestSequence& s : sequences_) {
      const auto count = blocks_of(s.tokens());
      tables_.emplace_back(ids.end() - count, ids.end());
      ids.resize(ids.size() - static_cast<size_t>(count));
      outs_.emplace_back(layout_.activation_dtype(), s.tokens(), shape.heads() * shape.head_dim);
    }
  }

  // One step: appends all pieces, then attends for all of their tokens.
  void step(const std::vector<Piece>& pieces) {
    const int64_t tokens = std::accumulate(pieces.begin(), pieces.end(), int64_t{0},
                                           [](int64_t sum, const Piece& p) { return sum + p.count; });
    ref::Matrix q(tokens, shape_.heads() * shape_.head_dim);
    ref::Matrix k(tokens, shape_.kv_heads * shape_.head_dim);
    ref::Matrix v(tokens, shape_.kv_heads * shape_.head_dim);
    std::vector<int32_t> segments;
    std::vector<int32_t> tables;
    AttentionBatch batch;
    int64_t at = 0;
    for (const Piece& p : pieces) {
      const TestSequence& s = sequences_[p.sequence];
      copy_rows(s.q, p, q, at);
      copy_rows(s.k, p, k, at);
      copy_rows(s.v, p, v, at);
      for (int64_t column : {at, p.count, p.first, std::ssize(tables)})
        segments.push_back(static_cast<int32_t>(column));
      const std::vector<int32_t>& table = tables_[p.sequence];
      tables.insert(tables.end(), table.begin(), table.begin() + blocks_of(p.first + p.count));
      batch.longest_segment = std::max(batch.longest_segment, p.count);
      at += p.count;
    }
    const TestTensor segment_tensor = vector_tensor(segments), table_tensor = vector_tensor(tables);
    batch.segments = Tensor(segment_tensor).reshaped(std::ssize(pieces), SegmentColumn::count);
    batch.block_tables = table_tensor;
    const TestTensor scratch(DType::f32, 1, current_backend().attention_scratch(layout_, std::ssize(tables)));
    const DType dtype = layout_.activation_dtype();
    const TestTensor q_tensor(dtype, q);
    const TestTensor k_tensor(dtype, k);
    const TestTensor v_tensor(DType::f32, v);
    const TestTensor out(dtype, tokens, q.columns);
    append_kv(stream_, k_tensor, v_tensor, batch, view());
    attention(stream_, q_tensor, view(), batch, scratch, out);
    keep(pieces, out);
  }
  void prefill(size_t sequence) { step({{sequence, 0, sequences_[sequence].tokens()}}); }

  const TestTensor& out(size_t sequence) const { return outs_[sequence]; }
  std::vector<int32_t>& table(size_t sequence) { return tables_[sequence]; }
  KvCacheView view() const { return {layout_, Tensor(cache_).device_bytes(), num_blocks_}; }
  static int64_t blocks_of(int64_t tokens) { return ceil_div(tokens, current_backend().kv_block_tokens); }

 private:
  int64_t blocks_needed() const {
    int64_t blocks = 0;
    for (const TestSequence& s : sequences_) blocks += blocks_of(s.tokens());
    return blocks;
  }
  static void copy_rows(const ref::Matrix& from, const Piece& piece, ref::Matrix& to, int64_t row) {
    std::copy_n(from.values.begin() + piece.first * from.columns, piece.count * from.columns,
                to.values.begin() + row * to.columns);
  }
  void keep(const std::vector<Piece>& pieces, const TestTensor& out) {
    const size_t bytes = static_cast<size_t>(out->columns()) * size_of(out->dtype());
    int64_t at = 0;
    for (const Piece& p : pieces) {
      for (int64_t i = 0; i < p.count; ++i, ++at) {
        std::memcpy(outs_[p.sequence]->middle_rows(p.first + i, 1).bytes(), out->middle_rows(at, 1).bytes(),
                    bytes);
      }
    }
  }

  Stream stream_;
  HeadShape shape_;
  KvLayout layout_;
  std::vector<TestSequence> sequences_;
  int64_t num_blocks_;
  TestTensor cache_;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<TestTensor> outs_;
};

}  // namespace chorale
