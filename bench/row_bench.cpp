// The kernels that move, normalise, rotate, route or sample rows, and those for fitting weights, on their
// own, beside the machine's ceilings (kernel_measure.h). Bytes are those of all operands, read or written;
// what a step computes mostly stays in the caches between two ops, so that they can be moved faster than
// memory reads. Exponentials, roots and divisions count as one operation. Shapes are those of Qwen3-30B-A3B.
//
// Usage: row_bench [--benchmark_filter=REGEX ...]
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include <benchmark/benchmark.h>

#include "base/tensor.h"
#include "kernel_measure.h"
#include "kernels/adam.h"
#include "kernels/expert_matmul.h"
#include "kernels/fixed_point.h"
#include "kernels/gated_activation.h"
#include "kernels/rms_norm_backward.h"
#include "kernels/rope.h"
#include "kernels/route.h"
#include "kernels/rows.h"
#include "kernels/sample.h"
#include "kernels/softmax.h"

namespace chorale::bench {
namespace {

constexpr int64_t kHidden = 2048;
constexpr int64_t kQuery = 4096;
constexpr int64_t kHeadDim = 128;
constexpr int64_t kIntermediate = 768;
constexpr int64_t kExperts = 128;
constexpr int64_t kTopK = 8;
constexpr int64_t kTableRows = 4096;
constexpr int64_t kVocab = 151936;
constexpr int64_t kAlternatives = 20;
constexpr float kEps = 1e-6F;
constexpr size_t kArenaBytes = size_t{256} << 20;  // more than any of them needs

Tensor floats(Arena& arena, int64_t rows, int64_t columns) {
  const Tensor t = arena.matrix(DType::f32, rows, columns);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c)
      t.row<float>(r)[c] = 0.5F + 0.01F * static_cast<float>((r * 7 + c) % 61);
  return t;
}

Tensor indices(Arena& arena, int64_t count, int64_t end) {
  const Tensor t = arena.matrix(DType::i32, 1, count);
  for (int64_t i = 0; i < count; ++i) t.data<int32_t>()[i] = static_cast<int32_t>(i * 7 % end);
  return t;
}

// The work of a kernel that moves all of these once and does so many operations.
OpWork work(std::initializer_list<Tensor> moved, int64_t operations) {
  OpWork sum{.bytes = 0, .operations = static_cast<double>(operations)};
  for (const Tensor& t : moved)
    sum.bytes += static_cast<double>(t.rows() * t.columns()) * static_cast<double>(size_of(t.dtype()));
  return sum;
}

template <typename Op>
void measure_rows(benchmark::State& state, const OpWork& of, const Op& op) {
  measure(state, WeightFormat::bf16, of, op);
}

void embed_rows(benchmark::State& state) {
  const int64_t t = state.range(0);
  Arena arena(kArenaBytes);
  const Tensor ids = indices(arena, t, kTableRows), table = arena.matrix(DType::bf16, kTableRows, kHidden);
  const Tensor out = arena.matrix(DType::f32, t, kHidden);
  OpWork moved = work({ids, out}, 0);
  moved.bytes += static_cast<double>(t * kHidden) * 2;
  measure_rows(state, moved, [&] { embed(machine().stream, ids, table, out); });
}

// Zeros: bits of rows, or sums.
Tensor zero_sums(Arena& arena, int64_t rows) {
  const Tensor bits = arena.matrix(DType::i64, rows, kHidden + 1);
  clear_sums(machine().stream, bits);
  return bits;
}

void embed_as_bits(benchmark::State& state) {
  const int64_t t = state.range(0);
  Arena arena(kArenaBytes);
  const Tensor ids = indices(arena, t, kTableRows), table = arena.matrix(DType::bf16, kTableRows, kHidden);
  const Tensor bits = zero_sums(arena, t);
  OpWork moved = work({ids, bits}, 0);
  moved.bytes += static_cast<double>(t * kHidden) * 2;
  measure_rows(state, moved, [&] { embed_bits(machine().stream, ids, table, 0, bits); });
}

void bits_as_rows(benchmark::State& state) {
  const int64_t t = state.range(0);
  Arena arena(kArenaBytes);
  const Tensor bits = zero_sums(arena, t), out = arena.matrix(DType::f32, t, kHidden);
  measure_rows(state, work({bits, out}, 0), [&] { bits_to_rows(machine().stream, bits, out); });
}

void gather(benchmark::State& state) {
  const int64_t t = state.range(0);
  Arena arena(kArenaBytes);
  const Tensor x = floats(arena, t, kHidden), rows = indices(arena, t, t);
  const Tensor out = arena.matrix(DType::f32, t, kHidden);
  measure_rows(state, work({x, rows, out}, 0), [&] { gather_rows(machine().stream, rows, x, out); });
}

void copy(benchmark::State& state) {
  const int64_t t = state.range(0);
  Arena arena(kArenaBytes);
  const Tensor x = floats(arena, t, kHidden), out = arena.matrix(DType::f32, t, kHidden);
  measure_rows(state, work({x, out}, 0), [&] { copy_rows(machine().stream, x, out); });
}

void norm(benchmark::State& state) {
  const int64_t t = state.range(0);
  Arena arena(kArenaBytes);
  const Tensor x = floats(arena, t, kHidden), weight = floats(arena, 1, kHidden);
  const Tensor out = arena.matrix(DType::bf16, t, kHidden);
  measure_rows(state, work({x, weight, out}, 4 * t * kHidden),
               [&] { rms_norm(machine().stream, x, weight, kEps, out); });
}

void norm_backward(benchmark::State& state) {
  const int64_t t = state.range(0);
  Arena arena(kArenaBytes);
  const Tensor x = floats(arena, t, kHidden), weight = floats(arena, 1, kHidden);
  const Tensor d_out = floats(arena, t, kHidden), d_x = arena.matrix(DType::f32, t, kHidden);
  measure_rows(state, work({x, weight, d_out, d_x}, 9 * t * kHidden),
               [&] { rms_norm_backward(machine().stream, x, weight, kEps, d_out, d_x); });
}

void angles(benchmark::State& state) {
  const int64_t t = state.range(0);
  Arena arena(kArenaBytes);
  const Tensor positions = indices(arena, t, kTableRows), frequencies = floats(arena, 1, kHeadDim / 2);
  const Tensor cos_sin = arena.matrix(DType::f32, t, kHeadDim);
  measure_rows(state, work({positions, frequencies, cos_sin}, 3 * t * kHeadDim / 2),
               [&] { rope_table(machine().stream, positions, frequencies, 1.0F, cos_sin); });
}

void norm_and_rotate(benchmark::State& state) {
  const int64_t t = state.range(0);
  Arena arena(kArenaBytes);
  const Tensor x = floats(arena, t, kQuery), weight = floats(arena, 1, kHeadDim);
  const Tensor cos_sin = floats(arena, t, kHeadDim), out = arena.matrix(DType::bf16, t, kQuery);
  measure_rows(state, work({x, weight, cos_sin, out}, 7 * t * kQuery),
               [&] { norm_rope(machine().stream, x, weight, kEps, cos_sin, out); });
}

ChosenExperts chosen_experts(Arena& arena, int64_t tokens) {
  return {arena.matrix(DType::i32, tokens, kTopK), arena.matrix(DType::f32, tokens, kTopK)};
}

void choose(benchmark::State& state) {
  const int64_t t = state.range(0);
  Arena arena(kArenaBytes);
  const Tensor logits = floats(arena, t, kExperts);
  const ChosenExperts chosen = chosen_experts(arena, t);
  measure_rows(state, work({logits, chosen.experts, chosen.weights}, 4 * t * kExperts), [&] {
    choose_experts(machine().stream, logits, {.top_k = kTopK, .normalize = true}, chosen);
  });
}

void sort_pairs(benchmark::State& state) {
  const int64_t t = state.range(0);
  Arena arena(kArenaBytes);
  const Tensor logits = floats(arena, t, kExperts);
  const ChosenExperts chosen = chosen_experts(arena, t);
  choose_experts(machine().stream, logits, {.top_k = kTopK, .normalize = true}, chosen);
  const ExpertRows rows{arena.matrix(DType::i32, 1, kExperts + 1), arena.matrix(DType::i32, 1, kExperts + 1),
                        arena.matrix(DType::i32, 1, t * kTopK), arena.matrix(DType::f32, 1, t * kTopK)};
  measure_rows(
      state, work({chosen.experts, chosen.weights, rows.offsets, rows.active, rows.tokens, rows.weights}, 0),
      [&] { sort_by_expert(machine().stream, chosen, rows); });
}

void clear(benchmark::State& state) {
  Arena arena(kArenaBytes);
  const Tensor sums = arena.matrix(DType::i64, state.range(0), kHidden + 1);
  measure_rows(state, work({sums}, 0), [&] { clear_sums(machine().stream, sums); });
}

void add(benchmark::State& state) {
  const int64_t t = state.range(0);
  Arena arena(kArenaBytes);
  const Tensor sums = zero_sums(arena, t), residual = floats(arena, t, kHidden);
  measure_rows(state, work({sums, residual, residual}, 2 * t * kHidden),
               [&] { add_sums(machine().stream, sums, {}, residual); });
}

void softmax(benchmark::State& state) {
  const int64_t t = state.range(0);
  Arena arena(kArenaBytes);
  const Tensor logits = floats(arena, t, kHidden);
  measure_rows(state, work({logits, logits}, 4 * t * kHidden),
               [&] { softmax_rows(machine().stream, logits); });
}

void gate(benchmark::State& state) {
  const int64_t t = state.range(0);
  Arena arena(kArenaBytes);
  const Tensor gates = floats(arena, t, kIntermediate), up = floats(arena, t, kIntermediate);
  const Tensor out = arena.matrix(DType::f32, t, kIntermediate);
  measure_rows(state, work({gates, up, out}, 5 * t * kIntermediate),
               [&] { gated_activation(machine().stream, gates, up, out); });
}

void gate_backward(benchmark::State& state) {
  const int64_t t = state.range(0);
  Arena arena(kArenaBytes);
  std::array<Tensor, 5> m;
  for (Tensor& one : m) one = floats(arena, t, kIntermediate);
  measure_rows(state, work({m[0], m[1], m[2], m[3], m[4]}, 11 * t * kIntermediate),
               [&] { gated_activation_backward(machine().stream, m[0], m[1], m[2], m[3], m[4]); });
}

void adam(benchmark::State& state) {
  const int64_t t = state.range(0);
  Arena arena(kArenaBytes);
  std::array<Tensor, 4> m;
  for (Tensor& one : m) one = floats(arena, t, kHidden);
  measure_rows(state, work({m[0], m[1], m[2], m[3], m[0], m[2], m[3]}, 14 * t * kHidden),
               [&] { adam_step(machine().stream, m[0], m[1], m[2], m[3], {}); });
}

// One call for all rows, as many at once as there are threads.
void sample_rows(benchmark::State& state, const SampleParams& params) {
  const int64_t t = state.range(0);
  const int threads = machine().pool.size();
  const int64_t scratch_bytes = sample_scratch_bytes(kVocab);
  Arena arena(Arena::matrix_bytes(DType::f32, t, kVocab) +
              Arena::matrix_bytes(DType::u8, threads, scratch_bytes) + (size_t{1} << 20));
  const Tensor logits = floats(arena, t, kVocab);
  const Tensor all_params = arena.dense_matrix(DType::u8, t, sizeof(SampleParams));
  for (int64_t r = 0; r < t; ++r) std::memcpy(all_params.row<std::byte>(r), &params, sizeof(params));
  const Tensor scratch = arena.matrix(DType::u8, threads, scratch_bytes);
  const SampledRows out{.tokens = arena.matrix(DType::i32, 1, t),
                        .statuses = arena.matrix(DType::i32, 1, t),
                        .logprobs = arena.matrix(DType::f32, t, 1 + kAlternatives),
                        .top_tokens = arena.matrix(DType::i32, t, kAlternatives)};
  const SampleRows in{.logits = logits, .params = all_params, .bias = {}, .counts = {}, .allowed = {}};
  measure_rows(state, work({logits}, 0), [&] { sample(machine().stream, in, scratch, out); });
}
void sample_greedy(benchmark::State& state) {
  sample_rows(state, {.temperature = 0});
}
void sample_top_k(benchmark::State& state) {
  sample_rows(state, {.top_p = 0.8, .top_k = 20});
}
void sample_top_p(benchmark::State& state) {
  sample_rows(state, {.top_p = 0.95});
}
void sample_logprobs(benchmark::State& state) {
  sample_rows(state, {.temperature = 0, .num_top = kAlternatives});
}

void tokens(benchmark::internal::Benchmark* b) {
  b->ArgName("rows")->UseRealTime()->Arg(1)->Arg(16)->Arg(512);
}
void sequences(benchmark::internal::Benchmark* b) {
  b->ArgName("rows")->UseRealTime()->Arg(1)->Arg(8)->Arg(64);
}

BENCHMARK(embed_rows)->Name("embed")->Apply(tokens);
BENCHMARK(embed_as_bits)->Name("embed_bits")->Apply(tokens);
BENCHMARK(bits_as_rows)->Name("bits_to_rows")->Apply(tokens);
BENCHMARK(gather)->Name("gather_rows")->Apply(tokens);
BENCHMARK(copy)->Name("copy_rows")->Apply(tokens);
BENCHMARK(norm)->Name("rms_norm")->Apply(tokens);
BENCHMARK(norm_backward)->Name("rms_norm_backward")->Apply(tokens);
BENCHMARK(angles)->Name("rope_table")->Apply(tokens);
BENCHMARK(norm_and_rotate)->Name("norm_rope")->Apply(tokens);
BENCHMARK(choose)->Name("choose_experts")->Apply(tokens);
BENCHMARK(sort_pairs)->Name("sort_by_expert")->Apply(tokens);
BENCHMARK(clear)->Name("clear_sums")->Apply(tokens);
BENCHMARK(add)->Name("add_sums")->Apply(tokens);
BENCHMARK(softmax)->Name("softmax_rows")->Apply(tokens);
BENCHMARK(gate)->Name("gated_activation")->Apply(tokens);
BENCHMARK(gate_backward)->Name("gated_activation_backward")->Apply(tokens);
BENCHMARK(adam)->Name("adam_step")->Apply(tokens);
BENCHMARK(sample_greedy)->Name("sample/greedy")->Apply(sequences);
BENCHMARK(sample_top_k)->Name("sample/top_k")->Apply(sequences);
BENCHMARK(sample_top_p)->Name("sample/top_p")->Apply(sequences);
BENCHMARK(sample_logprobs)->Name("sample/logprobs")->Apply(sequences);

}  // namespace
}  // namespace chorale::bench

BENCHMARK_MAIN();
