#include "kernels/cuda/kv_cache.h"

#include <numeric>

#include "gpu/gpu_test.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/ref/norm_order.h"

namespace chorale::cuda {
namespace {

struct Shape {
  int64_t heads, kv_heads, head_dim;
  DType dtype = DType::bf16;  // of keys and cache
};
constexpr Shape kShapes[] = {{1, 1, 2},  {3, 3, 6},  {4, 2, 16},   {8, 2, 32},
                             {2, 1, 64}, {9, 3, 80}, {32, 4, 128}, {4, 1, 256}};

std::vector<Shape> shapes_of_both_dtypes() {
  std::vector<Shape> shapes(std::begin(kShapes), std::end(kShapes));
  for (Shape shape : kShapes) {
    shape.dtype = DType::f32;
    shapes.push_back(shape);
  }
  return shapes;
}

// One chunk of a step: tokens of a sequence, and its block table.
struct Chunk {
  int64_t first_position, count;
  std::vector<int32_t> blocks;
};

// A step's chunks with block tables of their own, and room for all of them in a cache.
struct Step {
  std::vector<Chunk> chunks;
  int64_t num_blocks = 0;
  int64_t tokens() const {
    return std::accumulate(chunks.begin(), chunks.end(), int64_t{0},
                           [](int64_t sum, const Chunk& c) { return sum + c.count; });
  }
};
Step random_step(Random& random, int64_t num_chunks, int64_t longest) {
  Step step;
  for (int64_t i = 0; i < num_chunks; ++i) {
    // Beginnings and ends of blocks are what matters.
    const int64_t position =
        std::max<int64_t>(0, random_int(random, 0, 4) * kKvTokens + random_int(random, -2, 2));
    step.chunks.push_back({position, random_int(random, 0, longest), {}});
    step.num_blocks += ceil_div(position + step.chunks.back().count, kKvTokens);
  }
  step.num_blocks += 3;
  std::vector<int32_t> ids(static_cast<size_t>(step.num_blocks));
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), random);
  for (Chunk& chunk : step.chunks) {
    const auto count = static_cast<size_t>(ceil_div(chunk.first_position + chunk.count, kKvTokens));
    chunk.blocks.assign(ids.end() - static_cast<std::ptrdiff_t>(count), ids.end());
    ids.resize(ids.size() - count);
  }
  return step;
}

// The step in device memory.
struct GpuBatch {
  GpuTensor chunks;
  GpuTensor block_tables;
  AttentionBatch view;
};
GpuBatch batch_of(const Step& step) {
  const auto num_chunks = static_cast<int64_t>(step.chunks.size());
  std::vector<int32_t> tables;
  std::vector<int32_t> columns;
  int64_t first_token = 0;
  int64_t longest = 0;
  for (const Chunk& chunk : step.chunks) {
    for (int64_t value : {first_token, chunk.count, chunk.first_position, std::ssize(tables)})
      columns.push_back(static_cast<int32_t>(value));
    tables.insert(tables.end(), chunk.blocks.begin(), chunk.blocks.end());
    first_token += chunk.count;
    longest = std::max(longest, chunk.count);
  }
  tables.push_back(0);
  GpuBatch batch{gpu_vector(columns), gpu_vector(tables), {}};
  batch.view.segments = Tensor(Tensor(batch.chunks).bytes(), DType::i32, num_chunks, SegmentColumn::count,
                               SegmentColumn::count);
  batch.view.block_tables = batch.block_tables;
  batch.view.longest_segment = longest;
  return batch;
}

// A cache in host memory, whose bytes begin as NaN everywhere.
class HostCache {
 public:
  HostCache(const Shape& shape, int64_t num_blocks)
      : tiles_{shape.kv_heads, shape.head_dim, shape.dtype},
        bytes_(static_cast<size_t>(num_blocks * tiles_.block_bytes()), 0xFF) {}

  // What append_kv does, token by token. v is rounded to the cache's dtype.
  void append(const Step& step, const ref::Matrix& k, const ref::Matrix& v) {
    int64_t token = 0;
    for (const Chunk& chunk : step.chunks) {
      for (int64_t i = 0; i < chunk.count; ++i, ++token) {
        const int64_t position = chunk.first_position + i;
        const int64_t slot = position % kKvTokens;
        const int64_t block = chunk.blocks[static_cast<size_t>(position / kKvTokens)];
        for (int64_t head = 0; head < tiles_.num_kv_heads; ++head) {
          if (slot == 0) clear_values(block, head);
          for (int64_t d = 0; d < tiles_.head_dim; ++d) {
            const int64_t column = head * tiles_.head_dim + d;
            put(block, tiles_.key_offset(head, slot, d), k.at(token, column));
            put(block, tiles_.value_offset(head, slot, d), v.at(token, column));
          }
        }
      }
    }
  }
  const KvTiles& tiles() const { return tiles_; }
  const std::vector<uint8_t>& bytes() const { return bytes_; }

 private:
  void put(int64_t block, int64_t offset, float value) {
    uint8_t* to = bytes_.data() + block * tiles_.block_bytes() + offset;
    if (tiles_.has_tiles())
      *reinterpret_cast<bf16*>(to) = to_bf16(value);
    else
      *reinterpret_cast<float*>(to) = value;
  }
  void clear_values(int64_t block, int64_t head) {
    const auto first = bytes_.begin() + block * tiles_.block_bytes() + tiles_.value_offset(head, 0, 0);
    std::fill_n(first, tiles_.key_bytes(), uint8_t{0});  // there are as many of values
  }

  KvTiles tiles_;
  std::vector<uint8_t> bytes_;
};

// Every byte that is defined: keys and values of all dimensions, written, cleared, or left alone.
void expect_same_cache(const std::vector<uint8_t>& found, const HostCache& expected) {
  const KvTiles& tiles = expected.tiles();
  const int64_t num_blocks = std::ssize(found) / tiles.block_bytes();
  int64_t wrong = 0;
  for (int64_t block = 0; block < num_blocks; ++block) {
    for (int64_t head = 0; head < tiles.num_kv_heads; ++head) {
      for (int64_t slot = 0; slot < kKvTokens; ++slot) {
        for (int64_t d = 0; d < tiles.head_dim; ++d) {
          for (int64_t offset : {tiles.key_offset(head, slot, d), tiles.value_offset(head, slot, d)}) {
            const auto at = static_cast<size_t>(block * tiles.block_bytes() + offset);
            wrong += std::memcmp(&found[at], &expected.bytes()[at], size_of(tiles.dtype)) != 0 ? 1 : 0;
          }
        }
      }
    }
  }
  EXPECT_EQ(wrong, 0) << "values of the cache";
}

class GpuCache {
 public:
  explicit GpuCache(const HostCache& like)
      : tiles_(like.tiles()), memory_(queue().index(), like.bytes().size()) {
    queue().copy(like.bytes().data(), memory_.data(), memory_.size());
    queue().synchronize();
  }
  KvTilesView view() const {
    return {tiles_, memory_.data(), static_cast<int64_t>(memory_.size()) / tiles_.block_bytes()};
  }
  std::vector<uint8_t> download() const {
    std::vector<uint8_t> bytes(memory_.size());
    queue().copy(memory_.data(), bytes.data(), bytes.size());
    queue().synchronize();
    return bytes;
  }

 private:
  KvTiles tiles_;
  DeviceBuffer memory_;
};

TEST(GpuAppendKv, WritesWhatTheLayoutSays) {
  Random random(1);
  for (const Shape& shape : shapes_of_both_dtypes()) {
    for (int64_t num_chunks : {1, 2, 31, 33, 70}) {
      SCOPED_TRACE(testing::Message()
                   << shape.kv_heads << " heads of " << shape.head_dim << ", " << num_chunks << " chunks");
      const Step step = random_step(random, num_chunks, num_chunks > 10 ? 3 : 150);
      if (step.tokens() == 0) continue;
      const int64_t columns = shape.kv_heads * shape.head_dim;
      const ref::Matrix k = random_matrix(random, step.tokens(), columns, shape.dtype);
      const ref::Matrix v = random_matrix(random, step.tokens(), columns, DType::f32);
      HostCache expected(shape, step.num_blocks);
      const GpuCache cache(expected);
      const GpuBatch batch = batch_of(step);
      append_kv(queue(), GpuTensor(shape.dtype, k), GpuTensor(DType::f32, v), batch.view, cache.view());
      expected.append(step, k, v);
      expect_same_cache(cache.download(), expected);
    }
  }
}

// Steps of one sequence, after another owner left NaN in its blocks: however it is cut, the cache is the
// same.
TEST(GpuAppendKv, StepsOfAnyLengthGiveTheSameCache) {
  Random random(2);
  const Shape shape{4, 2, 64};
  const ref::Matrix k = random_matrix(random, 200, 128, DType::bf16);
  const ref::Matrix v = random_matrix(random, 200, 128, DType::f32);
  const std::vector<int32_t> blocks = {2, 0, 3, 1};
  HostCache expected(shape, 4);
  const GpuCache cache(expected);
  for (int64_t first = 0; first < 200;) {
    const int64_t count = std::min<int64_t>(200 - first, random_int(random, 1, 90));
    const Step step{{{first, count, blocks}}, 4};
    ref::Matrix step_k(count, 128);
    ref::Matrix step_v(count, 128);
    std::copy_n(k.values.begin() + first * 128, count * 128, step_k.values.begin());
    std::copy_n(v.values.begin() + first * 128, count * 128, step_v.values.begin());
    const GpuBatch batch = batch_of(step);
    append_kv(queue(), GpuTensor(DType::bf16, step_k), GpuTensor(DType::f32, step_v), batch.view,
              cache.view());
    first += count;
  }
  expected.append({{{0, 200, blocks}}, 4}, k, v);
  expect_same_cache(cache.download(), expected);
}

TEST(GpuNormRopeAppend, IsTheThreeOpsInOne) {
  Random random(3);
  for (const Shape& shape : kShapes) {
    for (int64_t num_chunks : {1, 3, 20, 40}) {  // those of 20 have more than 256 tokens together
      SCOPED_TRACE(testing::Message()
                   << shape.heads << " and " << shape.kv_heads << " heads of " << shape.head_dim);
      const Step step = random_step(random, num_chunks, num_chunks > 20 ? 2 : 70);
      if (num_chunks == 20) {
        ASSERT_GT(step.tokens(), 256);
      }
      const int64_t tokens = step.tokens();
      if (tokens == 0) continue;
      const ref::Matrix q = random_matrix(random, tokens, shape.heads * shape.head_dim, DType::f32, 3);
      const ref::Matrix k = random_matrix(random, tokens, shape.kv_heads * shape.head_dim, DType::f32, 3);
      const ref::Matrix v = random_matrix(random, tokens, shape.kv_heads * shape.head_dim, DType::f32);
      const ref::Matrix q_weight = random_matrix(random, 1, shape.head_dim, DType::f32);
      const ref::Matrix k_weight = random_matrix(random, 1, shape.head_dim, DType::f32);
      const ref::Matrix table = random_matrix(random, tokens, shape.head_dim, DType::f32);

      const GpuTensor q_tensor(DType::f32, q), k_tensor(DType::f32, k), v_tensor(DType::f32, v);
      const GpuTensor q_weights(DType::f32, q_weight), k_weights(DType::f32, k_weight),
          cos_sin(DType::f32, table);
      const GpuTensor q_out(DType::bf16, tokens, q.columns);
      HostCache expected(shape, step.num_blocks);
      const GpuCache cache(expected);
      const GpuBatch batch = batch_of(step);
      norm_rope_append(queue(), {q_tensor, k_tensor, v_tensor}, {q_weights, k_weights, 1e-6F, cos_sin}, q_out,
                       batch.view, cache.view());
      expect_same_bits(q_out.download(),
                       TestTensor(DType::bf16, ref::norm_rope_in_order(q, q_weight, 1e-6F, table)));
      expected.append(step, ref::norm_rope_in_order(k, k_weight, 1e-6F, table), v);
      expect_same_cache(cache.download(), expected);
    }
  }
}

TEST(GpuAppendKv, NoTokensIsNoWork) {
  const Shape shape{1, 1, 16};
  const HostCache expected(shape, 1);
  const GpuCache cache(expected);
  const GpuBatch batch = batch_of({{{0, 0, {}}}, 1});
  const GpuTensor k(DType::bf16, 0, 16);
  const GpuTensor v(DType::f32, 0, 16);
  append_kv(queue(), k, v, batch.view, cache.view());
  EXPECT_EQ(cache.download(), expected.bytes());
}

}  // namespace
}  // namespace chorale::cuda
