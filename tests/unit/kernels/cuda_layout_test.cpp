// What a GPU's kernels compute about places and plans is plain arithmetic, so it is tested without one.
#include <set>

#include "kernels/cuda/layout.h"
#include "kernels/cuda/pack.h"
#include "unit/kernels/kernel_test.h"
#include "unit/random_cases.h"

namespace chorale::cuda {
namespace {

static_assert(swizzled(0, 0) == 0 && swizzled(1, 0) == 64 + 8 && swizzled(7, 63) == 7 * 64 + 7);
static_assert(swizzled(9, 8) == swizzled(1, 8) + 8 * 64, "the pattern repeats every 8 rows");

TEST(CudaLayout, ATileHoldsEachElementOnceAndKeepsPiecesTogether) {
  std::set<int64_t> places;
  for (int64_t r = 0; r < kTile; ++r) {
    for (int64_t c = 0; c < kTile; ++c) {
      places.insert(swizzled(r, c));
      EXPECT_EQ(swizzled(r, c) / kTile, r);
      EXPECT_EQ(swizzled(r, c), swizzled(r, c / kPiece * kPiece) + c % kPiece);
    }
  }
  EXPECT_EQ(places.size(), 4096U);
  EXPECT_EQ(*places.rbegin(), 4095);
}

// Eight rows of one column touch all 32 banks of shared memory once: 16-byte pieces at eight different
// places.
TEST(CudaLayout, EightRowsOfAColumnMeetNoBankTwice) {
  for (int64_t first : {0, 8, 40}) {
    std::set<int64_t> pieces;
    for (int64_t r = first; r < first + 8; ++r) pieces.insert(swizzled(r, 16) % kTile / kPiece);
    EXPECT_EQ(pieces.size(), 8U);
  }
}

TEST(CudaLayout, PackedMatricesHoldTheirElementsAndZeros) {
  Random random(1);
  for (int trial = 0; trial < 20; ++trial) {
    const bool pair = trial % 2 == 1;
    const TiledLayout layout{random_int(random, 1, 150), random_int(random, 1, 200), 1, pair};
    const ref::Matrix halves[2] = {random_matrix(random, layout.n, layout.k, DType::bf16),
                                   random_matrix(random, layout.n, layout.k, DType::bf16)};
    Bytes bytes(layout.bytes(), 0xFF);
    for (int half = 0; half < (pair ? 2 : 1); ++half)
      EXPECT_EQ(pack(source_of(halves[half]), layout, bytes.data(), half), 0);
    auto* values = reinterpret_cast<bf16*>(bytes.data());
    for (int half = 0; half < (pair ? 2 : 1); ++half) {
      for (int64_t n = 0; n < layout.n; ++n) {
        for (int64_t k = 0; k < layout.k; ++k) {
          bf16& value = values[layout.element(layout.stored_row(n, half), k)];
          ASSERT_EQ(to_float(value), halves[half].at(n, k)) << n << " " << k;
          value = {0};
        }
      }
    }
    for (int64_t i = 0; i < layout.bytes() / 2; ++i) ASSERT_EQ(values[i].bits, 0) << i;
  }
}

TEST(CudaLayout, FloatMatricesAreRowsOfTheirElements) {
  Random random(3);
  for (bool pair : {false, true}) {
    const TiledLayout layout{11, 70, 1, pair, DType::f32};
    EXPECT_EQ(layout.bytes(), (pair ? 32 : 11) * 70 * 4);
    const ref::Matrix halves[2] = {random_matrix(random, 11, 70, DType::f32),
                                   random_matrix(random, 11, 70, DType::f32)};
    Bytes bytes(layout.bytes(), 0xFF);
    for (int half = 0; half < (pair ? 2 : 1); ++half)
      EXPECT_EQ(pack(source_of(halves[half]), layout, bytes.data(), half), 0);
    auto* values = reinterpret_cast<float*>(bytes.data());
    for (int half = 0; half < (pair ? 2 : 1); ++half) {
      for (int64_t n = 0; n < 11; ++n) {
        for (int64_t k = 0; k < 70; ++k) {
          float& value = values[layout.stored_row(n, half) * 70 + k];
          ASSERT_EQ(value, halves[half].at(n, k)) << n << " " << k;
          value = 0;
        }
      }
    }
    for (int64_t i = 0; i < layout.bytes() / 4; ++i) ASSERT_EQ(values[i], 0) << i;
    EXPECT_EQ(plan_product(layout, layout.row_tiles(), 8, 1, 132).kernel, ProductKernel::plain);
  }
}

TEST(CudaLayout, PackingCountsNaN) {
  ref::Matrix matrix(3, 70);
  matrix.at(0, 0) = matrix.at(2, 69) = std::nanf("");
  const TiledLayout layout{3, 70};
  Bytes bytes(layout.bytes(), 0);
  EXPECT_EQ(pack(source_of(matrix), layout, bytes.data()), 2);
}

TEST(CudaLayout, ABlockOfTheCacheHoldsEachValueOnce) {
  for (const auto& [head_dim, dtype] : {std::pair<int64_t, DType>{64, DType::bf16},
                                        {128, DType::bf16},
                                        {80, DType::bf16},
                                        {256, DType::bf16},
                                        {6, DType::f32},
                                        {64, DType::f32},
                                        {96, DType::f32}}) {
    const KvTiles tiles{3, head_dim, dtype};
    std::set<int64_t> places;
    for (int64_t head = 0; head < 3; ++head) {
      for (int64_t token = 0; token < kKvTokens; ++token) {
        for (int64_t dim = 0; dim < head_dim; ++dim) {
          places.insert(tiles.key_offset(head, token, dim));
          places.insert(tiles.value_offset(head, token, dim));
        }
      }
    }
    EXPECT_EQ(static_cast<int64_t>(places.size()), 3 * kKvTokens * head_dim * 2);
    EXPECT_LT(*places.rbegin(), tiles.block_bytes());
  }
}

// ---- plans ----

constexpr int64_t kProcessors = 132;

TEST(CudaPlan, TileTokensCoverTheRows) {
  for (int64_t rows = 1; rows <= 256; ++rows) {
    EXPECT_GE(tile_tokens(rows), rows);
    EXPECT_TRUE(rows <= 8 || tile_tokens(rows) < 2 * rows);
  }
  EXPECT_EQ(tile_tokens(100'000), 256);
}

// What a kernel relies on: whole stages in each chunk or whole chunks in each stage, and whole chunks in a
// split.
TEST(CudaPlan, StagesAndChunksFitIntoEachOther) {
  Random random(2);
  for (int trial = 0; trial < random_cases(5000); ++trial) {
    const int64_t chunks = int64_t{1} << random_int(random, 0, 4);
    const int64_t unit = random_int(random, 0, 1) == 0 ? 64 : random_int(random, 0, 1) == 0 ? 96 : 8;
    const TiledLayout layout{1024, chunks * unit * random_int(random, 1, 12), chunks};
    const int64_t rows = random_int(random, 1, 3000);
    const ProductPlan plan = plan_product(layout, random_int(random, 1, 3000), rows, 1, kProcessors);
    if (plan.kernel == ProductKernel::plain) {
      EXPECT_EQ(plan.k_splits, 1);
      EXPECT_TRUE(layout.k % kTile != 0 || (chunks > 1 && layout.chunk_k() % kTile != 0));
      continue;
    }
    EXPECT_EQ(chunks % plan.k_splits, 0);
    EXPECT_EQ(layout.k / plan.k_splits % (plan.stage_k * kTile), 0);
    if (plan.block_chunk == 0) {
      EXPECT_EQ(layout.chunk_k() % (plan.stage_k * kTile), 0);
    } else {
      EXPECT_EQ(plan.block_chunk * kBlockK, layout.chunk_k());
    }
    EXPECT_LE(plan.tokens, plan.kernel == ProductKernel::few_rows ? 64 : 160);
    if (chunks > 1) {
      EXPECT_LE(plan.tokens, 64);
    }
  }
}

TEST(CudaPlan, ShapesOfQwen3TakeTheirKernels) {
  const TiledLayout qkv{5120, 2048}, out{2048, 4096, 8}, down{2048, 768, 8}, gate_up{768, 2048, 1, true};
  const auto kernel = [](const TiledLayout& layout, int64_t rows, int64_t row_sets) {
    return plan_product(layout, layout.row_tiles(), rows, row_sets, kProcessors);
  };
  EXPECT_EQ(kernel(qkv, 1, 1).kernel, ProductKernel::few_rows);
  EXPECT_EQ(kernel(qkv, 1, 1).tokens, 8);
  EXPECT_EQ(kernel(qkv, 128, 1).kernel,
            ProductKernel::few_rows);  // 40 wide tiles are too few for all processors
  EXPECT_EQ(kernel(qkv, 256, 1).tokens, 128);
  EXPECT_EQ(kernel(qkv, 256, 1).sharing, Sharing::one_tile);
  EXPECT_EQ(kernel(qkv, 2048, 1).kernel, ProductKernel::many_rows);
  EXPECT_EQ(kernel(qkv, 2048, 1).tokens, 128);
  EXPECT_EQ(kernel(qkv, 2048, 1).sharing, Sharing::one_tile);
  EXPECT_EQ(kernel(qkv, 16'384, 1).tokens, 128);
  EXPECT_EQ(kernel(qkv, 16'384, 1).sharing, Sharing::by_turns);
  EXPECT_EQ(kernel(out, 1, 1).k_splits, 8);
  EXPECT_EQ(kernel(out, 2048, 1).kernel, ProductKernel::many_rows);
  EXPECT_EQ(kernel(down, 1, 8).block_chunk, 6);
  EXPECT_EQ(kernel(down, 1, 8).k_splits, 1);  // 256 tiles as it is
  EXPECT_EQ(kernel(down, 1, 1).k_splits, 4);  // 32 tiles; eight splits would part a tile of K
  EXPECT_EQ(kernel(gate_up, typical_rows(16, 128, 128), 128).tokens, 16);
  EXPECT_EQ(kernel(gate_up, typical_rows(2048, 16'384, 128), 128).tokens, 160);
  EXPECT_EQ(kernel(gate_up, typical_rows(16'384, 131'072, 128), 128).tokens, 160);
  EXPECT_EQ(kernel(gate_up, typical_rows(16'384, 131'072, 128), 128).sharing, Sharing::two_tiles);
}

TEST(CudaPlan, RowsStayInSharedMemoryWhereTheyFitAndAreMany) {
  const TiledLayout down{2048, 768, 8};
  EXPECT_TRUE(keeps_rows(down, 16'384, 128));
  EXPECT_FALSE(keeps_rows(down, 16'383, 128));
  EXPECT_TRUE(keeps_rows(down, 4096, 1));
  EXPECT_FALSE(keeps_rows(down, 4095, 1));
  EXPECT_TRUE(keeps_rows(TiledLayout{100, 192, 2}, 16'384, 128));
  EXPECT_FALSE(keeps_rows(TiledLayout{2048, 768, 4}, 16'384, 128));                     // chunks of 192
  EXPECT_FALSE(keeps_rows(TiledLayout{2048, 1536, 16}, 16'384, 128));                   // 24 tiles of K
  EXPECT_FALSE(keeps_rows(TiledLayout{2048, 288, 3}, 16'384, 128));                     // 4.5
  EXPECT_FALSE(keeps_rows(TiledLayout{2048, 768, 8, false, DType::f32}, 16'384, 128));  // no tiles
}

}  // namespace
}  // namespace chorale::cuda
