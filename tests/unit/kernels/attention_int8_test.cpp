// The int8 KV cache: what append_kv keeps, by equality, and what must not be seen of it.
#include <limits>

#include "kernels/cpu/kv_panels.h"
#include "kernels/ref/attention.h"
#include "unit/kernels/attention_run.h"

namespace chorale {
namespace {

class Int8CacheTest : public testing::TestWithParam<InstructionSet> {
 protected:
  std::array<Stream, 2> all_streams() const { return streams(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(All, Int8CacheTest, testing::ValuesIn(available_instruction_sets()),
                         [](const auto& isa) { return std::string(name_of(isa.param)); });

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One head of a block, read as kernels/cpu/kv_panels.h describes it.
struct KeptHead {
  cpu::KvPanels layout;
  const std::byte* data;

  int8_t key(int64_t slot, int64_t d) const {
    return byte(slot / 16 * layout.head_dim * 16 + d / 2 * 32 + slot % 16 * 2 + d % 2);
  }
  int8_t value(int64_t slot, int64_t d) const {
    return byte(layout.key_bytes() + d / 16 * 512 + slot / 2 * 32 + d % 16 * 2 + slot % 2);
  }
  float key_scale(int64_t slot) const { return scale(slot); }
  float value_scale(int64_t slot) const { return scale(kKvBlockTokens + slot); }

 private:
  int8_t byte(int64_t at) const { return static_cast<int8_t>(data[at]); }
  float scale(int64_t i) const {
    float value = 0;
    std::memcpy(&value, data + layout.key_bytes() + layout.value_bytes() + 4 * i, sizeof(value));
    return value;
  }
};

KeptHead kept_head(const KvCacheView& view, int32_t block, int64_t head) {
  const cpu::KvPanels layout(view.layout);
  return {layout, view.data + block * layout.block_bytes() + head * layout.head_bytes()};
}

void expect_kept(AttentionRun& run, const HeadShape& shape, const TestSequence& sequence) {
  const KvCacheView view = run.view();
  const ref::QuantizedHeads keys = ref::quantize_heads(sequence.k, shape.head_dim);
  const ref::QuantizedHeads values = ref::quantize_heads(sequence.v, shape.head_dim);
  int64_t wrong = 0;
  for (int64_t t = 0; t < sequence.tokens(); ++t) {
    const int64_t slot = t % kKvBlockTokens;
    for (int64_t head = 0; head < shape.kv_heads; ++head) {
      const KeptHead kept = kept_head(view, run.table(0)[static_cast<size_t>(t / kKvBlockTokens)], head);
      wrong += same_bits(kept.key_scale(slot), keys.scales.at(t, head)) ? 0 : 1;
      wrong += same_bits(kept.value_scale(slot), values.scales.at(t, head)) ? 0 : 1;
      for (int64_t d = 0; d < shape.head_dim; ++d) {
        const int64_t c = head * shape.head_dim + d;
        wrong += kept.key(slot, d) == keys.values.at(t, c) ? 0 : 1;
        wrong += kept.value(slot, d) == values.values.at(t, c) ? 0 : 1;
      }
    }
  }
  EXPECT_EQ(wrong, 0) << shape;
}

TEST(KvPanels, AnInt8HeadIsValuesAndTwoScalesForEachToken) {
  const cpu::KvPanels layout({.dtype = DType::i8, .num_kv_heads = 4, .head_dim = 128});
  EXPECT_EQ(layout.block_bytes(), 32 * 4 * 2 * (128 + 4));
  for (int64_t head_dim = 2; head_dim < 300; head_dim += 2)
    EXPECT_EQ(
        (cpu::KvPanels({.dtype = DType::i8, .num_kv_heads = 1, .head_dim = head_dim}).head_bytes() % 64), 0);
}

TEST_P(Int8CacheTest, AppendKeepsWhatTheReferenceQuantizes) {
  Random random(1);
  for (const HeadShape& shape : {HeadShape{1, 1, 2}, HeadShape{2, 1, 6}, HeadShape{3, 2, 18},
                                 HeadShape{2, 4, 80}, HeadShape{4, 1, 128}, HeadShape{1, 1, 1000}}) {
    TestSequence sequence = random_sequence(random, shape, 75, DType::bf16);
    for (float& x : sequence.v.values) x *= std::exp2(static_cast<float>(random_int(random, -20, 20)));
    for (const Stream& stream : all_streams()) {
      AttentionRun run(stream, DType::i8, shape, {sequence}, 1);
      for (int64_t first = 0; first < 75; first += 25) run.step({{0, first, 25}});
      expect_kept(run, shape, sequence);
    }
  }
}

TEST_P(Int8CacheTest, TiesZerosTinyAndNonFiniteHeadsAreKeptAsTheHeaderSays) {
  const HeadShape shape{1, 1, 4};
  TestSequence sequence{ref::Matrix(9, 4), ref::Matrix(9, 4), ref::Matrix(9, 4)};
  sequence.v.values = {127,       0.5F,     1.5F,  -2.5F,       // ties
                       0,         0,        -0.0F, 0,           //
                       0,         0,        0,     0x1p-101F,   // tiny
                       0,         0,        0,     0x1p-100F,   // the smallest that is kept
                       1,         kNan,     2,     3,           //
                       1,         2,        3,     -kInfinity,  //
                       3e38F,     -3.4e38F, 1,     0,           // huge
                       0x1p-140F, 0,        0,     0,           // a denormal
                       -1,        1,        -1,    1};
  sequence.k.values = sequence.v.values;
  for (float& x : sequence.k.values) x = rounded_to(DType::bf16, x);
  for (const Stream& stream : all_streams()) {
    AttentionRun run(stream, DType::i8, shape, {sequence});
    run.prefill(0);
    expect_kept(run, shape, sequence);
    const KvCacheView view = run.view();
    const KeptHead head = kept_head(view, 0, 0);
    EXPECT_EQ(head.value_scale(0), 1.0F);
    for (const auto& [d, value] : {std::pair{0, 127}, {1, 0}, {2, 2}, {3, -2}})
      EXPECT_EQ(head.value(0, d), value);
    for (const int64_t zeros : {1, 2, 7}) EXPECT_EQ(head.value_scale(zeros), 0.0F);
    EXPECT_EQ(head.value(3, 3), 127);
    for (const int64_t nan : {4, 5}) EXPECT_TRUE(std::isnan(head.value_scale(nan)));
    EXPECT_EQ(head.value(6, 1), -127);
  }
}

// Unlike in a cache without scales, a value that is not finite stays away even from the earlier tokens of its
// block in the same step.
TEST_P(Int8CacheTest, ALaterNanInTheSameStepIsNotSeen) {
  Random random(2);
  const HeadShape shape{2, 3, 32};
  const TestSequence clean = random_sequence(random, shape, 60, DType::bf16);
  for (const Stream& stream : all_streams()) {
    AttentionRun expected(stream, DType::i8, shape, {clean});
    expected.prefill(0);
    for (const int64_t changed : {1, 15, 16, 31, 32, 47, 59}) {
      TestSequence sequence = clean;
      sequence.v.at(changed, 3) = sequence.k.at(changed, 33) = kInfinity;
      AttentionRun run(stream, DType::i8, shape, {sequence}, 1);
      run.prefill(0);
      for (int64_t t = 0; t < changed; ++t) expect_same_row(run.out(0), t, expected.out(0), t);
      for (int64_t t = changed; t < 60; ++t)
        for (const float x : row_of(run.out(0).values(), t).values) EXPECT_TRUE(std::isnan(x));
    }
  }
}

}  // namespace
}  // namespace chorale
