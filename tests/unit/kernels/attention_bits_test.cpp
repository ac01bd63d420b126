// Attention's bits: a token's result depends on its own position and the cache alone.
#include <limits>

#include "unit/kernels/attention_run.h"

namespace chorale {
namespace {

using AttentionBitsTest = AttentionBackendTest;
INSTANTIATE_TEST_SUITE_P(All, AttentionBitsTest, testing::ValuesIn(all_attention_variants()),
                         name_of_variant);

constexpr HeadShape kShapes[] = {{1, 1, 2},   {2, 3, 6},   {1, 16, 32}, {2, 4, 80},
                                 {4, 1, 128}, {1, 2, 256}, {1, 2, 600}};

std::vector<TestSequence> random_sequences(Random& random, const HeadShape& shape,
                                           std::initializer_list<int64_t> lengths, DType dtype) {
  std::vector<TestSequence> sequences;
  for (int64_t length : lengths) sequences.push_back(random_sequence(random, shape, length, dtype));
  return sequences;
}

// Each sequence alone, at once, with one thread, in a clean cache.
std::vector<TestTensor> prefilled_alone(const Stream& stream, DType cache_dtype, const HeadShape& shape,
                                        const std::vector<TestSequence>& sequences) {
  std::vector<TestTensor> outs;
  for (const TestSequence& s : sequences) {
    AttentionRun run(stream, cache_dtype, shape, {s}, 0, 0);
    run.prefill(0);
    outs.emplace_back(run.out(0)->dtype(), run.out(0).values());
  }
  return outs;
}

// All sequences advance together by random numbers of tokens, some waiting now and then.
void run_in_random_steps(Random& random, AttentionRun& run, const std::vector<TestSequence>& sequences,
                         int64_t longest) {
  std::vector<int64_t> done(sequences.size(), 0);
  for (;;) {
    std::vector<Piece> pieces;
    bool left = false;
    for (size_t s = 0; s < sequences.size(); ++s) {
      const int64_t remaining = sequences[s].tokens() - done[s];
      left |= remaining > 0;
      const int64_t count = std::min(remaining, random_int(random, 0, longest));
      if (count > 0) pieces.push_back({s, done[s], count});
      done[s] += count;
    }
    std::shuffle(pieces.begin(), pieces.end(), random);
    if (!pieces.empty()) run.step(pieces);
    if (!left) return;
  }
}

TEST_P(AttentionBitsTest, TokenByTokenIsAsAllAtOnce) {
  Random random(1);
  for (const HeadShape& shape : kShapes) {
    const auto sequences = random_sequences(random, shape, {75}, dtype());
    const auto expected = prefilled_alone(stream(), cache_dtype(), shape, sequences);
    for (const Stream& stream : all_streams()) {
      AttentionRun run(stream, cache_dtype(), shape, sequences, 1);
      for (int64_t t = 0; t < 75; ++t) run.step({{0, t, 1}});
      SCOPED_TRACE(testing::Message() << shape);
      expect_same_bits(run.out(0), expected[0]);
    }
  }
}

TEST_P(AttentionBitsTest, ChunksBatchesBlocksAndGarbageDoNotMatter) {
  Random random(2);
  for (const HeadShape& shape : kShapes) {
    const auto sequences = random_sequences(random, shape, {75, 1, 100, 33, 64}, dtype());
    const auto expected = prefilled_alone(stream(), cache_dtype(), shape, sequences);
    uint32_t seed = 0;
    for (int64_t longest : {1, 3, 40, 100}) {
      ++seed;
      const uint8_t garbage = seed <= 2 ? 0xFF : 0x7B;  // NaN, or huge and finite
      AttentionRun run(all_streams()[seed % 2], cache_dtype(), shape, sequences, seed, garbage);
      run_in_random_steps(random, run, sequences, longest);
      for (size_t s = 0; s < sequences.size(); ++s) {
        SCOPED_TRACE(testing::Message() << shape << ", sequence " << s << ", chunks up to " << longest);
        expect_same_bits(run.out(s), expected[s]);
      }
    }
  }
}

TEST_P(AttentionBitsTest, AnEarlierOwnerOfTheBlocksDoesNotMatter) {
  Random random(3);
  const HeadShape shape{2, 2, 24};
  auto sequences = random_sequences(random, shape, {70, 70}, dtype());
  sequences[0].k.at(40, 5) = sequences[0].v.at(69, 7) = std::nanf("");
  sequences[0].v.at(3, 0) = std::numeric_limits<float>::infinity();
  const auto expected = prefilled_alone(stream(), cache_dtype(), shape, sequences);
  for (const Stream& stream : all_streams()) {
    AttentionRun run(stream, cache_dtype(), shape, sequences, 1);
    run.prefill(0);
    run.table(1) = run.table(0);
    run.step({{1, 0, 35}});
    run.step({{1, 35, 35}});
    expect_same_bits(run.out(1), expected[1]);
  }
}

// A cache hit: the second sequence begins with the blocks of the first.
TEST_P(AttentionBitsTest, SharedBlocksAreAsOnesOwn) {
  Random random(4);
  const HeadShape shape{2, 4, 64};
  auto sequences = random_sequences(random, shape, {80, 100}, dtype());
  for (ref::Matrix TestSequence::*m : {&TestSequence::q, &TestSequence::k, &TestSequence::v})
    std::copy_n((sequences[0].*m).values.begin(), 64 * (sequences[0].*m).columns,
                (sequences[1].*m).values.begin());
  const auto expected = prefilled_alone(stream(), cache_dtype(), shape, sequences);
  for (const Stream& stream : all_streams()) {
    AttentionRun run(stream, cache_dtype(), shape, sequences, 1);
    run.prefill(0);
    std::copy_n(run.table(0).begin(), AttentionRun::blocks_of(64), run.table(1).begin());
    run.step({{1, 64, 36}});
    for (int64_t t = 64; t < 100; ++t) expect_same_row(run.out(1), t, expected[1], t);
  }
}

TEST_P(AttentionBitsTest, ASequenceOfNansDoesNotReachAnother) {
  Random random(5);
  const HeadShape shape{2, 2, 40};
  auto sequences = random_sequences(random, shape, {50, 50, 50}, dtype());
  for (ref::Matrix* m : {&sequences[1].q, &sequences[1].k, &sequences[1].v})
    std::fill(m->values.begin(), m->values.end(), std::nanf(""));
  const auto expected = prefilled_alone(stream(), cache_dtype(), shape, sequences);
  for (const Stream& stream : all_streams()) {
    AttentionRun run(stream, cache_dtype(), shape, sequences, 1);
    run.step({{0, 0, 50}, {1, 0, 50}, {2, 0, 50}});
    expect_same_bits(run.out(0), expected[0]);
    expect_same_bits(run.out(2), expected[2]);
    for (float value : run.out(1).values().values) EXPECT_TRUE(std::isnan(value));
  }
}

// Causality: what comes later is not seen, whatever it is.
TEST_P(AttentionBitsTest, LaterTokensDoNotMatter) {
  Random random(6);
  const HeadShape shape{1, 3, 32};
  auto sequences = random_sequences(random, shape, {70}, dtype());
  const auto expected = prefilled_alone(stream(), cache_dtype(), shape, sequences);
  for (int64_t first_changed : {1, 20, 45, 69}) {
    std::vector<TestSequence> changed = sequences;
    for (int64_t t = first_changed; t < 70; ++t) {
      for (int64_t c = 0; c < changed[0].k.columns; ++c) {
        changed[0].k.at(t, c) = std::nanf("");
        changed[0].v.at(t, c) = rounded_to(dtype(), 1e30F);
      }
    }
    for (const Stream& stream : all_streams()) {
      AttentionRun run(stream, cache_dtype(), shape, changed, 1);
      run.prefill(0);
      for (int64_t t = 0; t < 70; ++t) {
        if (t < first_changed)
          expect_same_row(run.out(0), t, expected[0], t);
        else
          for (float value : row_of(run.out(0).values(), t).values) EXPECT_TRUE(std::isnan(value));
      }
    }
  }
}

// A NaN in a query is a matter of its own token; one in a value reaches the tokens that see it, in an int8
// cache through the scale of the whole head.
TEST_P(AttentionBitsTest, NanReachesTheTokensThatSeeIt) {
  Random random(7);
  const HeadShape shape{1, 2, 16};
  auto sequences = random_sequences(random, shape, {70}, dtype());
  const auto expected = prefilled_alone(stream(), cache_dtype(), shape, sequences);
  sequences[0].q.at(10, 5) = std::nanf("");  // head 0
  sequences[0].v.at(40, 9) = std::nanf("");  // dimension 9 of both heads
  AttentionRun run(stream(), cache_dtype(), shape, sequences, 1);
  for (int64_t t = 0; t < 70; ++t) run.step({{0, t, 1}});
  const ref::Matrix out = run.out(0).values();
  const ref::Matrix clean = expected[0].values();
  for (int64_t t = 0; t < 70; ++t) {
    for (int64_t c = 0; c < 32; ++c) {
      if ((t == 10 && c < 16) || (t >= 40 && (cache_dtype() == DType::i8 || c % 16 == 9)))
        EXPECT_TRUE(std::isnan(out.at(t, c))) << t << ", " << c;
      else
        EXPECT_EQ(out.at(t, c), clean.at(t, c)) << t << ", " << c;
    }
  }
}

TEST_P(AttentionBitsTest, NoTokensIsNoWork) {
  const HeadShape shape{1, 2, 16};
  for (const Stream& stream : all_streams()) {
    AttentionRun run(stream, cache_dtype(), shape, {});
    run.step({});
  }
}

}  // namespace
}  // namespace chorale
