#include "kernels/ref/rows.h"

#include <bit>

#include "gpu/gpu_test.h"
#include "kernels/cuda/cuda_kernels.h"

namespace chorale::cuda {
namespace {

constexpr int64_t kColumns[] = {1, 2, 3, 4, 16, 37, 64, 1023, 1024, 1025, 2048, 5120};

std::vector<int32_t> random_rows(Random& random, int64_t count, int64_t rows) {
  std::vector<int32_t> out;
  for (int64_t i = 0; i < count; ++i) out.push_back(static_cast<int32_t>(random_int(random, 0, rows - 1)));
  return out;
}

TEST(GpuEmbed, CopiesRowsOfTheTable) {
  Random random(1);
  for (DType dtype : {DType::bf16, DType::f32}) {
    for (int64_t columns : kColumns) {
      const ref::Matrix table = random_matrix(random, 50, columns, dtype);
      const std::vector<int32_t> ids = random_rows(random, random_int(random, 1, 70), 50);
      const GpuTensor out(DType::f32, std::ssize(ids), columns);
      embed(queue(), gpu_vector(ids), GpuTensor(dtype, table), out);
      expect_same_bits(out.download(), TestTensor(DType::f32, ref::gather_rows(ids, table)));
    }
  }
}

TEST(GpuEmbed, AnIdThatIsNotInTheTableGivesNan) {
  Random random(2);
  const ref::Matrix table = random_matrix(random, 7, 20, DType::bf16);
  const GpuTensor out(DType::f32, 4, 20);
  embed(queue(), gpu_vector<int32_t>({6, 7, -1, 0}), GpuTensor(DType::bf16, table), out);
  const ref::Matrix values = out.values();
  for (int64_t c = 0; c < 20; ++c) {
    EXPECT_EQ(values.at(0, c), table.at(6, c));
    EXPECT_TRUE(std::isnan(values.at(1, c)) && std::isnan(values.at(2, c)));
    EXPECT_EQ(values.at(3, c), table.at(0, c));
  }
}

TEST(GpuEmbedBits, HaveTheBitsOfTheRowsThatAreHere) {
  Random random(3);
  for (DType dtype : {DType::bf16, DType::f32}) {
    for (int64_t columns : kColumns) {
      const ref::Matrix table = random_matrix(random, 30, columns, dtype);
      const std::vector<int32_t> ids = {9, 10, 39, 40, 0, 25};
      const GpuTensor bits(DType::i64, 6, columns + 1);
      embed_bits(queue(), gpu_vector(ids), GpuTensor(dtype, table), 10, bits);
      const TestTensor found = bits.download();
      for (int64_t t = 0; t < 6; ++t) {
        const int64_t row = ids[static_cast<size_t>(t)] - 10;
        EXPECT_EQ(found->row<int64_t>(t)[columns], 0);
        for (int64_t c = 0; c < columns; ++c) {
          const uint32_t expected = row < 0 || row >= 30 ? 0 : std::bit_cast<uint32_t>(table.at(row, c));
          ASSERT_EQ(found->row<int64_t>(t)[c], int64_t{expected});
        }
      }
      const GpuTensor rows(DType::f32, 6, columns);
      bits_to_rows(queue(), bits, rows);
      const TestTensor back = rows.download();
      for (int64_t t : {1, 2, 5}) {
        const ref::Matrix expected = row_of(table, ids[static_cast<size_t>(t)] - 10);
        expect_same_row(back, t, TestTensor(DType::f32, expected), 0);
      }
    }
  }
}

TEST(GpuCopyRows, CopiesWhereverRowsBegin) {
  Random random(4);
  for (int64_t columns : kColumns) {
    const ref::Matrix x = random_matrix(random, 9, columns + 3, DType::f32);
    const GpuTensor source(DType::f32, x);
    for (int64_t first : {0, 1, 2, 3}) {
      const GpuTensor out(DType::f32, 9, columns);
      copy_rows(queue(), Tensor(source).middle_columns(first, columns), out);
      expect_same_bits(out.download(), TestTensor(DType::f32, columns_of(x, first, columns)));
    }
  }
}

TEST(GpuGatherRows, CopiesRows) {
  Random random(5);
  for (int64_t columns : kColumns) {
    const ref::Matrix x = random_matrix(random, 20, columns, DType::f32);
    const std::vector<int32_t> rows = random_rows(random, random_int(random, 1, 50), 20);
    const GpuTensor out(DType::f32, std::ssize(rows), columns);
    gather_rows(queue(), gpu_vector(rows), GpuTensor(DType::f32, x), out);
    expect_same_bits(out.download(), TestTensor(DType::f32, ref::gather_rows(rows, x)));
  }
}

TEST(GpuRows, NoRowsIsNoWork) {
  const GpuTensor table(DType::f32, 4, 3);
  const GpuTensor none(DType::i32, 1, 0);
  const GpuTensor out(DType::f32, 0, 3);
  embed(queue(), none, table, out);
  gather_rows(queue(), none, table, out);
  copy_rows(queue(), out, out);
  queue().synchronize();
}

}  // namespace
}  // namespace chorale::cuda
