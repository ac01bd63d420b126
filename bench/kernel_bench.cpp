// Each kernel that multiplies, and what quantizes and stores for that, on its own, beside the machine's
// ceilings (kernel_measure.h); row_bench has the others. Shapes are those of Qwen3-30B-A3B. The matrices take
// turns, so that each comes from memory and not from a cache.
//
// The formats of weights: 0 bf16, 2 int8, 3 int4. Quantizing the rows is not counted.
//
// Usage: kernel_bench [--benchmark_filter=REGEX ...]
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include <benchmark/benchmark.h>

#include "kernel_measure.h"
#include "kernels/attention.h"
#include "kernels/cpu/kv_panels.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/expert_matmul.h"
#include "kernels/fixed_point.h"
#include "kernels/gemm.h"
#include "kernels/matmul.h"
#include "kernels/quantize.h"

namespace chorale::bench {
namespace {

constexpr int64_t kHidden = 2048;
constexpr int64_t kQuery = 4096;
constexpr int64_t kKv = 512;
constexpr int64_t kIntermediate = 768;
constexpr size_t kMatrixBytes = size_t{384} << 20;  // of all copies: more than any cache

// bf16 values near 1, so that nothing is subnormal.
void fill(std::byte* data, size_t bytes) {
  for (size_t i = 0; i + 2 <= bytes; i += 2) {
    const auto value = static_cast<uint16_t>(0x3C00 + i % 61);
    std::memcpy(data + i, &value, 2);
  }
}

// Copies of a packed matrix, of which each call takes the next.
class Matrices {
 public:
  explicit Matrices(const WeightLayout& layout)
      : layout_(layout),
        count_(std::max<int64_t>(2, static_cast<int64_t>(kMatrixBytes) / layout_.bytes())),
        buffer_(static_cast<size_t>(count_ * layout_.bytes())) {
    fill(buffer_.data(), buffer_.size());
  }
  WeightMatrix next() {
    turn_ = (turn_ + 1) % count_;
    return {layout_, buffer_.data() + turn_ * layout_.bytes()};
  }

 private:
  cpu::PackedLayout layout_;
  int64_t count_;
  Buffer buffer_;
  int64_t turn_ = 0;
};

Tensor activations(Arena& arena, int64_t rows, int64_t columns) {
  const Tensor t = arena.matrix(DType::bf16, rows, columns);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c)
      t.row<bf16>(r)[c] = to_bf16(0.01F * static_cast<float>((r + c) % 7));
  return t;
}

// The second argument of a benchmark of a matrix.
WeightFormat format_of(const benchmark::State& state) {
  return static_cast<WeightFormat>(state.range(1));
}

// A layout with the groups of its format.
WeightLayout grouped(WeightLayout layout) {
  layout.group_k = choose_group(layout.format, layout.chunk_k());
  return layout;
}

// What the matrix multiplies: quantizing is not part of the measurement.
Tensor input_of(Arena& arena, const Tensor& x, const WeightLayout& layout) {
  if (!is_quantized(layout.format)) return x;
  const Tensor rows = arena.matrix(DType::u8, x.rows(), quantized_row_bytes(layout));
  quantize_rows(machine().stream, x, layout, rows);
  return rows;
}
size_t input_bytes(int64_t rows, const WeightLayout& layout) {
  return Arena::matrix_bytes(DType::bf16, rows, layout.k) +
         (is_quantized(layout.format) ? Arena::matrix_bytes(DType::u8, rows, quantized_row_bytes(layout))
                                      : 0);
}

void matmul_qkv(benchmark::State& state) {
  const int64_t m = state.range(0), n = kQuery + 2 * kKv;
  const WeightLayout layout = grouped({.format = format_of(state), .n = n, .k = kHidden, .n_chunks = 4});
  Matrices weights(layout);
  Arena arena(input_bytes(m, layout) + Arena::matrix_bytes(DType::f32, m, n));
  const Tensor x = input_of(arena, activations(arena, m, kHidden), layout);
  const Tensor out = arena.matrix(DType::f32, m, n);
  measure(state, layout.format, [&] {
    matmul(machine().stream, x, std::array{MatmulTarget{weights.next(), {}, out}});
  });
}

void order_free(benchmark::State& state, int64_t k) {
  const int64_t m = state.range(0);
  const WeightLayout layout = grouped({.format = format_of(state), .n = kHidden, .k = k, .k_chunks = 8});
  Matrices weights(layout);
  Arena arena(input_bytes(m, layout) + Arena::matrix_bytes(DType::i64, m, kHidden + 1));
  const Tensor x = input_of(arena, activations(arena, m, k), layout);
  const Tensor sums = arena.matrix(DType::i64, m, kHidden + 1);
  measure(state, layout.format, [&] {
    const WeightMatrix weight = weights.next();
    order_free_matmul(machine().stream, x, {weight.layout, {&weight.data, 1}}, {}, sums, SumMode::assign);
  });
}
void order_free_o_proj(benchmark::State& state) {
  order_free(state, kQuery);
}
void order_free_down(benchmark::State& state) {
  order_free(state, kIntermediate);
}

void gated_matmul_one(benchmark::State& state) {
  const int64_t m = state.range(0);
  const WeightLayout layout = grouped(
      {.format = format_of(state), .n = kIntermediate, .k = kHidden, .n_chunks = 8, .fused_pair = true});
  Matrices weights(layout);
  Arena arena(input_bytes(m, layout) + Arena::matrix_bytes(DType::bf16, m, kIntermediate));
  const Tensor x = input_of(arena, activations(arena, m, kHidden), layout);
  const Tensor out = arena.matrix(DType::bf16, m, kIntermediate);
  measure(state, layout.format, [&] {
    const WeightMatrix weight = weights.next();
    gated_matmul(machine().stream, x, {weight.layout, {&weight.data, 1}}, {}, out);
  });
}

// The experts of a layer of Qwen3-30B-A3B, of which each token uses 8 at random; others in each turn.
class Experts {
 public:
  static constexpr int64_t kExperts = 128, kTopK = 8, kTurns = 16;

  Experts(Arena& arena, const WeightLayout& layout, int64_t tokens)
      : buffer_(static_cast<size_t>(kExperts * cpu::PackedLayout(layout).bytes())), matrices_{layout, data_} {
    fill(buffer_.data(), buffer_.size());
    for (int64_t e = 0; e < kExperts; ++e)
      data_[static_cast<size_t>(e)] = buffer_.data() + e * cpu::PackedLayout(layout).bytes();
    std::minstd_rand random(1);
    for (ExpertRows& rows : turns_) rows = route(arena, tokens, random);
  }
  Experts(const Experts&) = delete;  // matrices_ points to data_
  Experts& operator=(const Experts&) = delete;
  static size_t arena_bytes(int64_t tokens) {
    return kTurns * (2 * Arena::matrix_bytes(DType::i32, 1, kExperts + 1) +
                     2 * Arena::matrix_bytes(DType::i32, 1, tokens * kTopK));
  }
  const ExpertMatrices& matrices() const { return matrices_; }
  const ExpertRows& next_rows() { return turns_[static_cast<size_t>(turn_++ % kTurns)]; }

 private:
  static ExpertRows route(Arena& arena, int64_t tokens, std::minstd_rand& random) {
    std::array<std::vector<int32_t>, kExperts> tokens_of;
    std::array<size_t, kExperts> order{};
    std::iota(order.begin(), order.end(), size_t{0});
    for (int32_t t = 0; t < tokens; ++t) {
      std::shuffle(order.begin(), order.end(), random);
      for (size_t i = 0; i < kTopK; ++i) tokens_of[order[i]].push_back(t);
    }
    const ExpertRows rows{
        arena.matrix(DType::i32, 1, kExperts + 1), arena.matrix(DType::i32, 1, kExperts + 1),
        arena.matrix(DType::i32, 1, tokens * kTopK), arena.matrix(DType::f32, 1, tokens * kTopK)};
    auto* offsets = rows.offsets.data<int32_t>();
    auto* active = rows.active.data<int32_t>();
    offsets[0] = active[0] = 0;
    for (int32_t e = 0; e < kExperts; ++e) {
      const std::vector<int32_t>& chosen = tokens_of[static_cast<size_t>(e)];
      std::copy(chosen.begin(), chosen.end(), rows.tokens.data<int32_t>() + offsets[e]);
      offsets[e + 1] = offsets[e] + static_cast<int32_t>(chosen.size());
      if (!chosen.empty()) active[++active[0]] = e;
    }
    std::fill_n(rows.weights.data<float>(), tokens * kTopK, 1.0F / kTopK);
    return rows;
  }

  Buffer buffer_;
  std::array<const std::byte*, kExperts> data_{};
  ExpertMatrices matrices_;
  std::array<ExpertRows, kTurns> turns_;
  int64_t turn_ = 0;
};

void gated_matmul_experts(benchmark::State& state) {
  const int64_t m = state.range(0), pairs = m * Experts::kTopK;
  const WeightLayout layout = grouped(
      {.format = format_of(state), .n = kIntermediate, .k = kHidden, .n_chunks = 8, .fused_pair = true});
  Arena arena(Experts::arena_bytes(m) + input_bytes(m, layout) +
              Arena::matrix_bytes(DType::bf16, pairs, kIntermediate));
  Experts experts(arena, layout, m);
  const Tensor x = input_of(arena, activations(arena, m, kHidden), layout);
  const Tensor out = arena.matrix(DType::bf16, pairs, kIntermediate);
  measure(state, layout.format,
          [&] { gated_matmul(machine().stream, x, experts.matrices(), experts.next_rows(), out); });
}

void order_free_experts(benchmark::State& state) {
  const int64_t m = state.range(0), pairs = m * Experts::kTopK;
  const WeightLayout layout =
      grouped({.format = format_of(state), .n = kHidden, .k = kIntermediate, .k_chunks = 8});
  Arena arena(Experts::arena_bytes(m) + input_bytes(pairs, layout) +
              Arena::matrix_bytes(DType::i64, m, kHidden + 1));
  Experts experts(arena, layout, m);
  const Tensor x = input_of(arena, activations(arena, pairs, kIntermediate), layout);
  const Tensor sums = arena.matrix(DType::i64, m, kHidden + 1);
  clear_sums(machine().stream, sums);
  measure(state, layout.format,
          [&] { order_free_matmul(machine().stream, x, experts.matrices(), experts.next_rows(), sums); });
}

void quantize(benchmark::State& state) {
  const int64_t m = state.range(0);
  const WeightLayout layout = grouped({.format = WeightFormat::int8, .n = 16, .k = kHidden});
  Arena arena(input_bytes(m, layout));
  const Tensor x = activations(arena, m, kHidden);
  const Tensor rows = arena.matrix(DType::u8, m, quantized_row_bytes(layout));
  const OpWork work{.bytes = static_cast<double>(m * (kHidden * 2 + quantized_row_bytes(layout))),
                    .operations = static_cast<double>(3 * m * kHidden)};
  measure(state, layout.format, work, [&] { quantize_rows(machine().stream, x, layout, rows); });
  state.counters["rows/s"] =
      benchmark::Counter(static_cast<double>(m), benchmark::Counter::kIsIterationInvariantRate);
}

// A segment of tokens for each sequence, all at the same positions, and the blocks of their cache.
AttentionBatch batch_of(Arena& arena, int64_t sequences, int64_t tokens_each, int64_t first_position,
                        int64_t blocks) {
  Tensor segments = arena.matrix(DType::i32, 1, sequences * SegmentColumn::count);
  const Tensor tables = arena.matrix(DType::i32, 1, sequences * blocks);
  for (int64_t s = 0; s < sequences; ++s) {
    int32_t* segment = segments.data<int32_t>() + s * SegmentColumn::count;
    segment[SegmentColumn::first_token] = static_cast<int32_t>(s * tokens_each);
    segment[SegmentColumn::num_tokens] = static_cast<int32_t>(tokens_each);
    segment[SegmentColumn::first_position] = static_cast<int32_t>(first_position);
    segment[SegmentColumn::first_block] = static_cast<int32_t>(s * blocks);
  }
  for (int64_t b = 0; b < sequences * blocks; ++b) tables.data<int32_t>()[b] = static_cast<int32_t>(b);
  segments = Tensor(segments.bytes(), DType::i32, sequences, SegmentColumn::count, SegmentColumn::count);
  return {segments, tables, tokens_each};
}
size_t batch_bytes(int64_t sequences, int64_t blocks) {
  return Arena::matrix_bytes(DType::i32, sequences, 16) +
         Arena::matrix_bytes(DType::i32, 1, sequences * blocks);
}

void attention_of(benchmark::State& state, DType cache_dtype, int64_t sequences, int64_t tokens_each,
                  int64_t first_position) {
  const KvLayout layout{.dtype = cache_dtype, .num_kv_heads = 4, .head_dim = 128};
  const int64_t blocks = (first_position + tokens_each + kKvBlockTokens - 1) / kKvBlockTokens;
  // The cache of another layer each time, as in a step: else it would stay in the processor's caches.
  const int64_t layer_bytes = sequences * blocks * cpu::KvPanels(layout).block_bytes();
  const int64_t layers = std::max<int64_t>(2, static_cast<int64_t>(kMatrixBytes) / layer_bytes);
  Buffer cache(static_cast<size_t>(layers * layer_bytes));
  fill(cache.data(), cache.size());
  int64_t turn = 0;
  const int64_t tokens = sequences * tokens_each;
  Arena arena(2 * Arena::matrix_bytes(DType::bf16, tokens, kQuery) + batch_bytes(sequences, blocks));
  const Tensor q = activations(arena, tokens, kQuery), out = arena.matrix(DType::bf16, tokens, kQuery);
  const AttentionBatch batch = batch_of(arena, sequences, tokens_each, first_position, blocks);
  measure(state, WeightFormat::bf16, [&] {
    turn = (turn + 1) % layers;
    attention(machine().stream, q, {layout, cache.data() + turn * layer_bytes}, batch, {}, out);
  });
}
void attention_decode(benchmark::State& state, DType cache_dtype) {
  attention_of(state, cache_dtype, state.range(0), 1, 512);
}
void attention_prefill(benchmark::State& state, DType cache_dtype) {
  attention_of(state, cache_dtype, 1, state.range(0), 0);
}

// One token for each sequence.
void append(benchmark::State& state, DType cache_dtype) {
  const KvLayout layout{.dtype = cache_dtype, .num_kv_heads = 4, .head_dim = 128};
  constexpr int64_t kPosition = 5;  // not the first of a block, which clears it
  const int64_t tokens = state.range(0);
  Buffer cache(static_cast<size_t>(tokens * cpu::KvPanels(layout).block_bytes()));
  fill(cache.data(), cache.size());
  Arena arena(Arena::matrix_bytes(DType::bf16, tokens, kKv) + Arena::matrix_bytes(DType::f32, tokens, kKv) +
              batch_bytes(tokens, 1));
  const Tensor k = activations(arena, tokens, kKv), v = arena.matrix(DType::f32, tokens, kKv);
  for (int64_t t = 0; t < tokens; ++t) std::fill_n(v.row<float>(t), kKv, 0.5F);
  const AttentionBatch batch = batch_of(arena, tokens, 1, kPosition, 1);
  const int64_t stored = 2 * static_cast<int64_t>(size_of(cache_dtype));  // of a key and a value
  const OpWork work{.bytes = static_cast<double>(tokens * kKv * (2 + 4 + stored)), .operations = 0};
  measure(state, WeightFormat::bf16, work, [&] {
    append_kv(machine().stream, k, v, batch, {layout, cache.data()});
  });
}

// For fitting weights, in float32.
void general_product(benchmark::State& state) {
  const int64_t m = state.range(0);
  Arena arena(Arena::matrix_bytes(DType::f32, m, kHidden) +
              Arena::matrix_bytes(DType::f32, m, kIntermediate) +
              Arena::matrix_bytes(DType::f32, kHidden, kIntermediate));
  const Tensor a = arena.matrix(DType::f32, m, kHidden), b = arena.matrix(DType::f32, kHidden, kIntermediate);
  for (int64_t r = 0; r < m; ++r) std::fill_n(a.row<float>(r), kHidden, 0.5F);
  for (int64_t r = 0; r < kHidden; ++r) std::fill_n(b.row<float>(r), kIntermediate, 0.25F);
  const Tensor c = arena.matrix(DType::f32, m, kIntermediate);
  GemmScratch scratch;
  const OpWork work{
      .bytes = 4.0 * static_cast<double>(m * kHidden + kHidden * kIntermediate + m * kIntermediate),
      .operations = 2.0 * static_cast<double>(m * kHidden * kIntermediate)};
  measure(state, WeightFormat::f32, work,
          [&] { gemm(machine().stream, {a}, {b}, c, GemmMode::assign, scratch); });
}

void rows_and_formats(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "format"})->UseRealTime();
  for (const WeightFormat format : {WeightFormat::bf16, WeightFormat::int8, WeightFormat::int4})
    for (const int64_t rows : {1, 4, 16, 32, 512}) b->Args({rows, static_cast<int64_t>(format)});
}

BENCHMARK(matmul_qkv)->Apply(rows_and_formats);
BENCHMARK(gated_matmul_one)->Apply(rows_and_formats);
BENCHMARK(order_free_o_proj)->Apply(rows_and_formats);
BENCHMARK(order_free_down)->Apply(rows_and_formats);
BENCHMARK(gated_matmul_experts)->Apply(rows_and_formats);
BENCHMARK(order_free_experts)->Apply(rows_and_formats);
BENCHMARK(quantize)->Arg(1)->Arg(16)->Arg(512)->UseRealTime();
BENCHMARK_CAPTURE(attention_decode, bfloat16, DType::bf16)->Arg(1)->Arg(16)->Arg(32)->UseRealTime();
BENCHMARK_CAPTURE(attention_decode, int8, DType::i8)->Arg(1)->Arg(16)->Arg(32)->UseRealTime();
BENCHMARK_CAPTURE(attention_prefill, bfloat16, DType::bf16)->Arg(512)->UseRealTime();
BENCHMARK_CAPTURE(attention_prefill, int8, DType::i8)->Arg(512)->UseRealTime();
BENCHMARK_CAPTURE(append, bfloat16, DType::bf16)->Name("append_kv/bfloat16")->Arg(1)->Arg(32)->UseRealTime();
BENCHMARK_CAPTURE(append, int8, DType::i8)->Name("append_kv/int8")->Arg(1)->Arg(32)->UseRealTime();
BENCHMARK(general_product)->Name("gemm")->Arg(16)->Arg(512)->UseRealTime();

}  // namespace
}  // namespace chorale::bench

BENCHMARK_MAIN();
