#include "kernels/cuda/attention.h"

#include <numeric>

#include "gpu/gpu_test.h"
#include "kernels/ref/tensor_core.h"

namespace chorale::cuda {
namespace {

// What kernels take powers of two by.
void hardware_exp2(std::span<float> values) {
  ref::Matrix exponents(1, std::ssize(values));
  std::copy(values.begin(), values.end(), exponents.values.begin());
  const GpuTensor powers(DType::f32, exponents);
  exp2_approximate(queue(), powers);
  const ref::Matrix results = powers.values();
  std::copy(results.values.begin(), results.values.end(), values.begin());
}

// One sequence of a step: what is cached already and what is new.
struct Sequence {
  int64_t cached = 0;
  int64_t fresh = 1;
};

// Sequences with random keys and values in a cache whose blocks are shuffled and begin as NaN.
struct Step {
  ref::AttentionShape shape;
  std::vector<Sequence> sequences;
  std::vector<ref::Matrix> q, keys, values;  // of each sequence; keys and values from position 0 on
  DType dtype;

  Step(Random& random, const ref::AttentionShape& attention_shape, std::vector<Sequence> all,
       float q_deviation = 2, DType element = DType::bf16)
      : shape(attention_shape), sequences(std::move(all)), dtype(element) {
    for (const auto& [cached, fresh] : sequences) {
      q.push_back(random_matrix(random, fresh, shape.num_heads * shape.head_dim, dtype, q_deviation));
      keys.push_back(random_matrix(random, cached + fresh, shape.num_kv_heads * shape.head_dim, dtype));
      values.push_back(random_matrix(random, cached + fresh, shape.num_kv_heads * shape.head_dim, dtype));
    }
  }

  // The rows that the op gives, sequence after sequence.
  ref::Matrix run(Random& random) const {
    const KvTiles tiles{shape.num_kv_heads, shape.head_dim, dtype};
    int64_t blocks = 0, tokens = 0, longest = 0;
    for (const auto& [cached, fresh] : sequences) {
      blocks += ceil_div(cached + fresh, kKvTokens) + 1;  // one that is not used yet
      tokens += fresh;
      longest = std::max(longest, fresh);
    }
    std::vector<int32_t> table(static_cast<size_t>(blocks));
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), random);
    Bytes cache(blocks * tiles.block_bytes(), 0xFF);
    TestTensor chunks(DType::i32, std::ssize(sequences), SegmentColumn::count);
    ref::Matrix all_q(tokens, shape.num_heads * shape.head_dim);
    int64_t first_token = 0, first_block = 0;
    for (size_t s = 0; s < sequences.size(); ++s) {
      const auto& [cached, fresh] = sequences[s];
      int32_t* chunk = chunks->row<int32_t>(static_cast<int64_t>(s));
      chunk[SegmentColumn::first_token] = static_cast<int32_t>(first_token);
      chunk[SegmentColumn::num_tokens] = static_cast<int32_t>(fresh);
      chunk[SegmentColumn::first_position] = static_cast<int32_t>(cached);
      chunk[SegmentColumn::first_block] = static_cast<int32_t>(first_block);
      std::copy(q[s].values.begin(), q[s].values.end(), all_q.values.begin() + first_token * all_q.columns);
      fill(s, tiles, cache.data(), table, first_block);
      first_token += fresh;
      first_block += ceil_div(cached + fresh, kKvTokens) + 1;
    }
    const DeviceBuffer memory(0, static_cast<size_t>(cache.size()));
    queue().copy(cache.data(), memory.data(), memory.size());
    const GpuTensor gpu_chunks(std::move(chunks)), gpu_table = gpu_vector(table);
    const GpuTensor gpu_q(dtype, all_q), out(dtype, all_q.rows, all_q.columns);
    const GpuTensor scratch(DType::f32, 1, attention_scratch_floats(tiles, blocks));
    attention(queue(), gpu_q, {tiles, memory.data(), blocks}, {gpu_chunks, gpu_table, longest},
              shape.num_heads, scratch, out);
    return out.values();
  }

  ref::Matrix expected() const {
    ref::Matrix all(0, shape.num_heads * shape.head_dim);
    for (size_t s = 0; s < sequences.size(); ++s) {
      const ref::Matrix rows =
          ref::tensor_core_attention(shape, q[s], sequences[s].cached, keys[s], values[s], hardware_exp2);
      all.values.insert(all.values.end(), rows.values.begin(), rows.values.end());
      all.rows += rows.rows;
    }
    return all;
  }

 private:
  // As append_kv does: keys beyond the last token are not defined, values are zero.
  void fill(size_t s, const KvTiles& tiles, std::byte* cache, const std::vector<int32_t>& table,
            int64_t first_block) const {
    const int64_t tokens = keys[s].rows;
    for (int64_t t = 0; t < ceil_div(tokens, kKvTokens) * kKvTokens; ++t) {
      std::byte* block =
          cache + table[static_cast<size_t>(first_block + t / kKvTokens)] * tiles.block_bytes();
      for (int64_t head = 0; head < shape.num_kv_heads; ++head) {
        for (int64_t d = 0; d < shape.head_dim; ++d) {
          const int64_t column = head * shape.head_dim + d;
          const auto put = [&](int64_t offset, float value) {
            if (dtype == DType::bf16)
              *reinterpret_cast<bf16*>(block + offset) = to_bf16(value);
            else
              *reinterpret_cast<float*>(block + offset) = value;
          };
          if (t < tokens) put(tiles.key_offset(head, t % kKvTokens, d), keys[s].at(t, column));
          put(tiles.value_offset(head, t % kKvTokens, d), t < tokens ? values[s].at(t, column) : 0.0F);
        }
      }
    }
  }
};

void expect_equal(const ref::Matrix& actual, const ref::Matrix& expected) {
  expect_same_bits(TestTensor(DType::f32, actual), TestTensor(DType::f32, expected));
}

constexpr ref::AttentionShape kShapes[] = {{8, 1, 128}, {8, 2, 64},  {4, 4, 16},  {6, 2, 32},
                                           {16, 1, 96}, {7, 1, 128}, {32, 4, 128}};

// Heads that no kernel of their own takes: any even size, and any number of query heads for a KV head.
constexpr ref::AttentionShape kOddShapes[] = {{1, 1, 2},  {6, 3, 6},   {4, 4, 24},   {40, 2, 48}, {8, 1, 80},
                                              {4, 2, 98}, {5, 1, 112}, {16, 8, 192}, {4, 1, 256}};

TEST(GpuAttention, HeadsOfAnyEvenSizeHaveTheBitsOfTheReference) {
  Random random(8);
  for (const ref::AttentionShape& shape : kOddShapes) {
    const Step step(random, shape, {{0, 1}, {63, 1}, {64, 1}, {150, 1}, {0, 40}, {100, 30}, {0, 0}, {60, 3}});
    SCOPED_TRACE(fmt::format("{} / {} heads of {}", shape.num_heads, shape.num_kv_heads, shape.head_dim));
    expect_equal(step.run(random), step.expected());
  }
}

// Whatever else a step holds, and however a prompt is cut.
TEST(GpuAttention, HeadsOfAnyEvenSizeDoNotDependOnTheBatch) {
  Random random(9);
  for (const DType dtype : {DType::bf16, DType::f32}) {
    for (const ref::AttentionShape& shape : {ref::AttentionShape{6, 2, 10}, {8, 2, 160}}) {
      Step prefill(random, shape, {{0, 300}, {70, 1}}, 2, dtype);
      const ref::Matrix all = prefill.run(random);
      for (int64_t position : {0, 63, 64, 200, 299}) {
        Step decode = prefill;
        decode.sequences = {{position, 1}};
        decode.q = {row_of(prefill.q[0], position)};
        decode.keys = {prefill.keys[0]};
        decode.values = {prefill.values[0]};
        decode.keys[0].rows = decode.values[0].rows = position + 1;
        expect_equal(decode.run(random), row_of(all, position));
      }
    }
  }
}

// The power that attention uses, against double precision: two units in the last place, which is what CUDA's
// documentation promises, and nothing below the least normal number.
TEST(GpuAttention, PowersOfTwoAreNearlyExact) {
  Random random(11);
  std::vector<float> exponents(1 << 16);
  for (float& x : exponents)
    x = -static_cast<float>(std::exp2(std::uniform_real_distribution(-20.0, 7.2)(random)));
  exponents.insert(exponents.end(), {0.0F, -0.0F, -1.0F, -126.0F, -127.5F, -1e30F, -INFINITY});
  std::vector<float> powers = exponents;
  hardware_exp2(powers);
  for (size_t i = 0; i < exponents.size(); ++i) {
    const double exact = std::exp2(double{exponents[i]});
    EXPECT_NEAR(powers[i], exact, exact < 0x1p-126 ? 0x1p-126 : exact * 0x1p-22) << exponents[i];
  }
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

// A score is at most A = |q| |k| / sqrt(D), and off by D + 2 roundoffs of A; its difference to the maximum is
// rounded once more. A power of two is off by four roundoffs, and blocks are rescaled exactly. Weighted sum
// and sum of weights collect these errors, one rounding per token of a block and two per block.
TEST(GpuAttention, Float32AgreesWithTheReference) {
  Random random(10);
  std::vector<ref::AttentionShape> shapes(std::begin(kOddShapes), std::end(kOddShapes));
  shapes.insert(shapes.end(), std::begin(kShapes), std::end(kShapes));
  for (const ref::AttentionShape& shape : shapes) {
    const Step step(random, shape, {{0, 1}, {63, 1}, {64, 1}, {300, 1}, {0, 70}, {100, 30}}, 2, DType::f32);
    SCOPED_TRACE(fmt::format("{} / {} heads of {}", shape.num_heads, shape.num_kv_heads, shape.head_dim));
    const ref::Matrix found = step.run(random);
    int64_t first = 0;
    for (size_t s = 0; s < step.sequences.size(); ++s) {
      const auto& [cached, fresh] = step.sequences[s];
      const auto attend = [&](const ref::Matrix& values) {
        return ref::attention(shape, step.q[s], cached, step.keys[s], values);
      };
      const double score = largest_norm(step.q[s], shape.head_dim) *
                           largest_norm(step.keys[s], shape.head_dim) /
                           std::sqrt(static_cast<double>(shape.head_dim));
      const auto blocks = static_cast<double>(ceil_div(cached + fresh, kKvTokens));
      const double relative =
          2 * kFloatRoundoff *
          (2 * score * static_cast<double>(shape.head_dim + 5) + 4 + kKvTokens + 1 + 2 * blocks);
      ref::Dense<double> expected = attend(step.values[s]), tolerance = attend(absolute(step.values[s]));
      for (size_t i = 0; i < tolerance.values.size(); ++i)
        tolerance.values[i] = tolerance.values[i] * relative + std::fabs(expected.values[i]) * kFloatRoundoff;
      ref::Matrix rows(fresh, found.columns);
      std::copy_n(found.values.begin() + first * found.columns, fresh * found.columns, rows.values.begin());
      expect_within(rows, expected, tolerance);
      first += fresh;
    }
  }
}

TEST(GpuAttention, DecodeHasTheBitsOfTheReference) {
  Random random(1);
  for (const ref::AttentionShape& shape : kShapes) {
    const Step step(random, shape, {{0, 1}, {1, 1}, {62, 1}, {63, 1}, {64, 1}, {130, 1}, {511, 1}});
    SCOPED_TRACE(fmt::format("{} / {} heads of {}", shape.num_heads, shape.num_kv_heads, shape.head_dim));
    expect_equal(step.run(random), step.expected());
  }
}

TEST(GpuAttention, PrefillHasTheBitsOfTheReference) {
  Random random(2);
  for (const ref::AttentionShape& shape : kShapes) {
    const Step step(random, shape, {{0, 40}, {0, 65}, {100, 30}, {64, 64}});
    SCOPED_TRACE(fmt::format("{} / {} heads of {}", shape.num_heads, shape.num_kv_heads, shape.head_dim));
    expect_equal(step.run(random), step.expected());
  }
}

TEST(GpuAttention, MixedStepsHaveTheBitsOfTheReference) {
  Random random(3);
  for (int trial = 0; trial < 12; ++trial) {
    const ref::AttentionShape& shape = kShapes[trial % std::ssize(kShapes)];
    std::vector<Sequence> sequences;
    for (int64_t i = random_int(random, 1, 5); i > 0; --i)
      sequences.push_back(
          {random_int(random, 0, 150),
           std::array<int64_t, 5>{1, 2, 3, 17, 40}[static_cast<size_t>(random_int(random, 0, 4))]});
    const Step step(random, shape, sequences);
    expect_equal(step.run(random), step.expected());
  }
}

// So far that probabilities vanish, blocks count for nothing beside others, and later ones outdo all before.
TEST(GpuAttention, ScoresFarApartHaveTheBitsOfTheReference) {
  Random random(6);
  for (const ref::AttentionShape& shape : {ref::AttentionShape{8, 1, 128}, {8, 2, 64}}) {
    for (float deviation : {20.0F, 200.0F, 2000.0F}) {
      const Step step(random, shape, {{300, 1}, {0, 200}, {130, 70}}, deviation);
      SCOPED_TRACE(fmt::format("heads of {}, queries of {}", shape.head_dim, deviation));
      expect_equal(step.run(random), step.expected());
    }
  }
}

// Tiles in pairs, which only many rows bring, and whose last is alone.
TEST(GpuAttention, LongPrefillsHaveTheBitsOfDecode) {
  Random random(7);
  Step prefill(random, {8, 8, 64}, {{70, 8300}, {0, 1}, {0, 4200}});
  const ref::Matrix all = prefill.run(random);
  int64_t first = 0;
  for (const size_t s : {size_t{0}, size_t{1}, size_t{2}}) {
    const auto [cached, fresh] = prefill.sequences[s];
    for (const int64_t row : {int64_t{0}, fresh / 3, fresh / 2, fresh - 129, fresh - 1}) {
      if (row < 0) continue;
      Step decode = prefill;
      decode.sequences = {{cached + row, 1}};
      decode.q = {row_of(prefill.q[s], row)};
      decode.keys = {prefill.keys[s]};
      decode.values = {prefill.values[s]};
      decode.keys[0].rows = decode.values[0].rows = cached + row + 1;
      expect_equal(decode.run(random), row_of(all, first + row));
    }
    first += fresh;
  }
}

// The last rows of a long prefill are what decode gives at their positions.
TEST(GpuAttention, PrefillAndDecodeGiveTheSameBits) {
  Random random(4);
  for (const ref::AttentionShape& shape : {ref::AttentionShape{32, 4, 128}, {8, 2, 64}}) {
    Step prefill(random, shape, {{0, 2500}});
    const ref::Matrix all = prefill.run(random);
    for (int64_t position : {0, 63, 64, 1023, 1024, 2047, 2499}) {
      Step decode = prefill;
      decode.sequences = {{position, 1}};
      decode.q = {row_of(prefill.q[0], position)};
      decode.keys[0].rows = decode.values[0].rows = position + 1;
      expect_equal(decode.run(random), row_of(all, position));
    }
  }
}

// Against attention in double precision, so that the reference is not merely repeated.
TEST(GpuAttention, IsCloseToTheExactResult) {
  Random random(5);
  const Step step(random, {8, 2, 128}, {{200, 1}, {0, 70}});
  const ref::Matrix actual = step.run(random);
  int64_t first = 0;
  for (size_t s = 0; s < step.sequences.size(); ++s) {
    const ref::Dense<double> exact =
        ref::attention(step.shape, step.q[s], step.sequences[s].cached, step.keys[s], step.values[s]);
    for (int64_t r = 0; r < exact.rows; ++r)
      for (int64_t c = 0; c < exact.columns; ++c) EXPECT_NEAR(actual.at(first + r, c), exact.at(r, c), 0.03);
    first += exact.rows;
  }
}

}  // namespace
}  // namespace chorale::cuda
