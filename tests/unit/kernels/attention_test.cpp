// Attention's values: against the reference, and exact where the arithmetic is.
#include "kernels/attention.h"

#include "kernels/ref/attention.h"
#include "unit/kernels/attention_run.h"

namespace chorale {
namespace {

using AttentionTest = AttentionBackendTest;
INSTANTIATE_TEST_SUITE_P(All, AttentionTest, testing::ValuesIn(all_attention_variants()), name_of_variant);

// What a cache gives back of keys or values. An int8 cache's are rounded once more, to float32; where they
// are compared with equality, the scale is rounded to bf16 first, as that of a token with probability 1.
ref::Matrix as_cached(DType cache_dtype, const ref::Matrix& heads, int64_t head_dim,
                      bool rounds_scale = false) {
  ref::Matrix cached = heads;
  if (cache_dtype != DType::i8) {
    for (float& x : cached.values) x = rounded_to(cache_dtype, x);
    return cached;
  }
  const ref::QuantizedHeads quantized = ref::quantize_heads(heads, head_dim);
  for (int64_t t = 0; t < heads.rows; ++t) {
    for (int64_t c = 0; c < heads.columns; ++c) {
      const float scale = quantized.scales.at(t, c / head_dim);
      cached.at(t, c) = static_cast<float>(quantized.values.at(t, c)) *
                        (rounds_scale ? rounded_to(DType::bf16, scale) : scale);
    }
  }
  return cached;
}

double largest_norm(const ref::Matrix& m, int64_t head_dim) {
  double largest = 0;
  for (size_t begin = 0; begin < m.values.size(); begin += static_cast<size_t>(head_dim)) {
    double squares = 0;
    for (size_t d = begin; d < begin + static_cast<size_t>(head_dim); ++d)
      squares += double{m.values[d]} * double{m.values[d]};
    largest = std::max(largest, squares);
  }
  return std::sqrt(largest);
}

// A score is at most A = |q| |k| / sqrt(D), and off by (D + 4) roundoffs of A: D products, an unfused one,
// and the scale. The differences of scores to the maximum, at most 2 A, are rounded once more. A probability
// is e to that, through exp and at most one rescale, again through exp, for each of the blocks that follow; a
// bf16 one is rounded. Weighted sum and sum of weights each collect these errors and one rounding per token
// of a block and two per block, and the quotient is rounded to an activation.
//
// An int8 cache adds three roundoffs to a score (the key as it is compared with, its scale times that of the
// scores, and one product in place of none) and two to a weight (the value, and the product with its scale).
ref::Dense<double> attention_tolerance(const ref::AttentionShape& shape, const ref::Matrix& q,
                                       int64_t first_position, const ref::Matrix& keys,
                                       const ref::Matrix& values, DType cache_dtype,
                                       const ref::Dense<double>& expected) {
  const double score = largest_norm(q, shape.head_dim) * largest_norm(keys, shape.head_dim) /
                       std::sqrt(static_cast<double>(shape.head_dim));
  const auto blocks = static_cast<double>(AttentionRun::blocks_of(first_position + q.rows));
  const bool is_int8 = cache_dtype == DType::i8;
  const DType dtype = KvLayout{.dtype = cache_dtype}.activation_dtype();
  const double probability =
      2 * score * kFloatRoundoff * static_cast<double>(shape.head_dim + 5 + (is_int8 ? 3 : 0)) +
      blocks * (kExpError + 2 * kFloatRoundoff);
  const double sums = kFloatRoundoff * (static_cast<double>(current_backend().kv_block_tokens) + 1 +
                                        2 * blocks + (is_int8 ? 2 : 0));
  const double relative = 2 * (probability + sums) + (dtype == DType::bf16 ? kBf16Roundoff : 0);
  ref::Dense<double> tolerance = ref::attention(shape, q, first_position, keys, absolute(values));
  for (size_t i = 0; i < tolerance.values.size(); ++i)
    tolerance.values[i] = tolerance.values[i] * relative + std::fabs(expected.values[i]) * roundoff_of(dtype);
  return tolerance;
}

// Prefills a sequence in steps of `chunk` tokens, and compares its rows from `first_compared` on.
void check(const Stream& stream, DType cache_dtype, const HeadShape& shape, const TestSequence& sequence,
           int64_t chunk, int64_t first_compared) {
  SCOPED_TRACE(testing::Message() << shape << ", " << sequence.tokens() << " tokens by " << chunk);
  AttentionRun run(stream, cache_dtype, shape, {sequence}, 1);
  for (int64_t first = 0; first < sequence.tokens(); first += chunk)
    run.step({{0, first, std::min(chunk, sequence.tokens() - first)}});
  const int64_t rows = sequence.tokens() - first_compared;
  const auto last_rows = [&](const ref::Matrix& m) {
    ref::Matrix out(rows, m.columns);
    std::copy(m.values.begin() + first_compared * m.columns, m.values.end(), out.values.begin());
    return out;
  };
  const ref::Matrix keys = as_cached(cache_dtype, sequence.k, shape.head_dim);
  const ref::Matrix values = as_cached(cache_dtype, sequence.v, shape.head_dim);
  const ref::AttentionShape ref_shape{shape.heads(), shape.kv_heads, shape.head_dim};
  const ref::Matrix q = last_rows(sequence.q);
  const ref::Dense<double> expected = ref::attention(ref_shape, q, first_compared, keys, values);
  expect_within(last_rows(run.out(0).values()), expected,
                attention_tolerance(ref_shape, q, first_compared, keys, values, cache_dtype, expected));
}

constexpr HeadShape kShapes[] = {{1, 1, 2},  {1, 16, 6}, {2, 3, 64},  {1, 4, 80},  {2, 8, 128}, {1, 2, 256},
                                 {3, 5, 16}, {4, 1, 64}, {1, 16, 18}, {2, 13, 32}, {1, 3, 1000}};

TEST_P(AttentionTest, AgreesWithTheReference) {
  Random random(1);
  for (const HeadShape& shape : kShapes) {
    for (int64_t tokens : {1, 31, 32, 33, 70, 128}) {
      const TestSequence sequence = random_sequence(random, shape, tokens, dtype());
      check(all_streams()[static_cast<size_t>(tokens % 2)], cache_dtype(), shape, sequence, tokens, 0);
    }
  }
}

TEST_P(AttentionTest, EveryGroupSizeAgreesWithTheReference) {
  Random random(8);
  for (int64_t group = 1; group <= 16; ++group) {
    const HeadShape shape{random_int(random, 1, 4), group, 2 * random_int(random, 1, 50)};
    const TestSequence sequence = random_sequence(random, shape, random_int(random, 1, 50), dtype());
    for (const Stream& stream : all_streams())
      check(stream, cache_dtype(), shape, sequence, random_int(random, 1, 50), 0);
  }
}

TEST_P(AttentionTest, LongHistoriesAgreeWithTheReference) {
  Random random(2);
  for (const HeadShape& shape : {HeadShape{1, 3, 6}, HeadShape{2, 1, 64}, HeadShape{1, 1, 128}}) {
    const TestSequence sequence = random_sequence(random, shape, 1003, dtype());
    check(all_streams()[0], cache_dtype(), shape, sequence, 1003, 999);
    check(all_streams()[1], cache_dtype(), shape, sequence, 250, 999);  // chunks begin in mid-block
  }
}

// The maximum grows from block to block, so that what was accumulated is scaled down again and again.
TEST_P(AttentionTest, GrowingScoresAgreeWithTheReference) {
  Random random(3);
  for (const HeadShape& shape : {HeadShape{1, 3, 32}, HeadShape{2, 1, 80}}) {
    TestSequence sequence = random_sequence(random, shape, 200, dtype());
    for (int64_t t = 0; t < 200; ++t)
      for (int64_t c = 0; c < sequence.k.columns; ++c)
        sequence.k.at(t, c) = rounded_to(dtype(), sequence.k.at(t, c) * static_cast<float>(1 + t / 16));
    for (const Stream& stream : all_streams()) check(stream, cache_dtype(), shape, sequence, 67, 0);
  }
}

TEST_P(AttentionTest, TheLargestHeadHasRoom) {
  Random random(4);
  const HeadShape shape{1, 2, KvLayout{.dtype = cache_dtype()}.max_head_dim()};
  check(all_streams()[1], cache_dtype(), shape, random_sequence(random, shape, 34, dtype()), 20, 30);
}

// Queries of zero give every visible token the same weight of exactly 1, and small integers add up exactly:
// the mean is rounded once. Equality, so that a token too many or too few shows at any length. Each head's
// largest value is 127, so that its scale in an int8 cache is 1.
TEST_P(AttentionTest, QueriesOfZeroGiveTheExactMeanOfWhatIsVisible) {
  Random random(5);
  for (const HeadShape& shape : {HeadShape{1, 3, 2}, HeadShape{2, 2, 24}, HeadShape{1, 16, 64}}) {
    const int64_t tokens = 333;
    TestSequence sequence = random_sequence(random, shape, tokens, dtype());
    std::fill(sequence.q.values.begin(), sequence.q.values.end(), 0.0F);
    for (float& x : sequence.v.values) x = static_cast<float>(random_int(random, -100, 100));
    for (size_t i = 0; i < sequence.v.values.size(); i += static_cast<size_t>(shape.head_dim))
      sequence.v.values[i] = 127;
    for (const Stream& stream : all_streams()) {
      AttentionRun run(stream, cache_dtype(), shape, {sequence}, 2);
      for (int64_t first = 0; first < tokens; first += 97)
        run.step({{0, first, std::min<int64_t>(97, tokens - first)}});
      const ref::Matrix out = run.out(0).values();
      std::vector<float> sums(static_cast<size_t>(sequence.v.columns));
      int64_t wrong = 0;
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t c = 0; c < sequence.v.columns; ++c) sums[static_cast<size_t>(c)] += sequence.v.at(t, c);
        for (int64_t c = 0; c < out.columns; ++c) {
          const int64_t kv = c / shape.head_dim / shape.group * shape.head_dim + c % shape.head_dim;
          const float mean = sums[static_cast<size_t>(kv)] / static_cast<float>(t + 1);
          wrong += out.at(t, c) == rounded_to(dtype(), mean) ? 0 : 1;
        }
      }
      EXPECT_EQ(wrong, 0) << shape;
    }
  }
}

// A token that sees itself alone gets its own value, rounded as the cache rounds it: to nearest even.
TEST_P(AttentionTest, TheFirstTokenGetsItsOwnValue) {
  Random random(6);
  const HeadShape shape{2, 2, 48};
  TestSequence sequence = random_sequence(random, shape, 1, dtype());
  for (size_t i = 0; i < sequence.v.values.size(); ++i) {
    if (i % 3 != 0) continue;  // ties of bf16
    const uint32_t bits = std::bit_cast<uint32_t>(sequence.v.values[i]);
    sequence.v.values[i] = std::bit_cast<float>((bits & 0xFFFF0000U) | 0x8000U);
  }
  for (const Stream& stream : all_streams()) {
    AttentionRun run(stream, cache_dtype(), shape, {sequence});
    run.prefill(0);
    const ref::Matrix out = run.out(0).values();
    const ref::Matrix cached = as_cached(cache_dtype(), sequence.v, 48, true);
    for (int64_t c = 0; c < out.columns; ++c) {
      const int64_t kv = c / 48 / 2 * 48 + c % 48;
      EXPECT_EQ(out.at(0, c), rounded_to(dtype(), cached.at(0, kv)));
    }
  }
}

// One key far ahead of the others takes all the weight, wherever it lies in the cache.
TEST_P(AttentionTest, FindsEachToken) {
  const HeadShape shape{2, 2, 128};
  const int64_t wanted = 90;  // tokens; as many follow, each of which looks for one of them
  Random random(7);
  TestSequence sequence = random_sequence(random, shape, 2 * wanted, dtype());
  for (float& x : sequence.k.values) x = x < 0 ? -1.0F : 1.0F;  // dot products of 128 signs are far below 128
  const auto kv_column = [](int64_t c) { return c / 128 / 2 * 128 + c % 128; };
  for (int64_t t = 0; t < wanted; ++t)
    for (int64_t c = 0; c < sequence.q.columns; ++c)
      sequence.q.at(wanted + t, c) = 64 * sequence.k.at(t, kv_column(c));
  for (const Stream& stream : all_streams()) {
    AttentionRun run(stream, cache_dtype(), shape, {sequence}, 3);
    run.prefill(0);
    const ref::Matrix out = run.out(0).values();
    const ref::Matrix cached = as_cached(cache_dtype(), sequence.v, 128, true);
    int64_t wrong = 0;
    for (int64_t t = 0; t < wanted; ++t)
      for (int64_t c = 0; c < out.columns; ++c)
        wrong += out.at(wanted + t, c) == rounded_to(dtype(), cached.at(t, kv_column(c))) ? 0 : 1;
    EXPECT_EQ(wrong, 0);
  }
}

}  // namespace
}  // namespace chorale
