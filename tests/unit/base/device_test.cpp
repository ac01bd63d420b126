#include "base/device.h"

#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/copy.h"
#include "unit/base/poisoned_device.h"

namespace chorale {
namespace {

class DeviceTest : public testing::Test {
 protected:
  PoisonedDriver driver_{"test:0"};
  Device device_{driver_};
  LateQueue queue_{device_};
  Stream stream_{queue_};
};

TEST_F(DeviceTest, IsAValue) {
  PoisonedDriver other("test:1");
  EXPECT_EQ(Device(), Device());
  EXPECT_EQ(Device(driver_), device_);
  EXPECT_NE(Device(other), device_);
  EXPECT_NE(Device(), device_);
  EXPECT_EQ(Device().name(), "cpu");
  EXPECT_EQ(device_.name(), "test:0");
}

TEST_F(DeviceTest, DataTravelsBothWaysInTheStreamsOrder) {
  Arena arena(Arena::matrix_bytes(DType::i32, 3, 5) + Arena::dense_matrix_bytes(DType::i32, 3, 5), device_);
  const Tensor padded = arena.matrix(DType::i32, 3, 5), dense = arena.dense_matrix(DType::i32, 3, 5);
  std::vector<int32_t> values(15);
  std::iota(values.begin(), values.end(), 1);
  copy(stream_, host_vector<int32_t>(values).reshaped(3, 5), padded);
  copy(stream_, padded, dense);
  values[4] = 50;  // the queue has not read it yet
  EXPECT_EQ(download<int32_t>(stream_, dense), values);
  EXPECT_EQ(download<int32_t>(stream_, padded.middle_rows(1, 2).middle_columns(1, 3)),
            (std::vector<int32_t>{7, 8, 9, 12, 13, 14}));
}

TEST_F(DeviceTest, MemoryBeginsAsZerosAndIsReleased) {
  Arena arena(Arena::dense_matrix_bytes(DType::i64, 7, 9), device_);
  EXPECT_EQ(download<int64_t>(stream_, arena.dense_matrix(DType::i64, 7, 9)), std::vector<int64_t>(63));
  Buffer moved(64, device_);
  moved = Buffer(128, device_);  // the driver's end counts what is left
  Buffer taken(std::move(moved));
  EXPECT_EQ(taken.size(), 128u);
  EXPECT_EQ(taken.device(), device_);
}

TEST_F(DeviceTest, TooLittleMemoryNamesTheDevice) {
  PoisonedDriver small("test:2", 1000);
  try {
    const Buffer buffer(1001, Device(small));
    ADD_FAILURE() << "1001 of 1000 bytes";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "test:2 has no 1001 bytes left");
  }
}

TEST_F(DeviceTest, TheHostCannotReadItsMemory) {
  Arena arena(Arena::matrix_bytes(DType::f32, 2, 2), device_);
  const Buffer buffer(64, device_);
  const Tensor tensor = arena.matrix(DType::f32, 2, 2);
  EXPECT_DEATH(tensor.data<float>(), "the host reads memory of test:0");
  EXPECT_DEATH(tensor.middle_columns(1, 1).row<float>(1), "the host reads memory of test:0");
  EXPECT_DEATH(tensor.first_rows(1).bytes(), "the host reads memory of test:0");
  EXPECT_DEATH(buffer.data(), "the host reads memory of test:0");
}

TEST_F(DeviceTest, AStreamHasMemoryOfItsOwnDevice) {
  PoisonedDriver other("test:1");
  Arena arena(Arena::matrix_bytes(DType::f32, 2, 2), Device(other));
  const Tensor foreign = arena.matrix(DType::f32, 2, 2);
  std::vector<float> values(4);
  const Tensor host = host_vector<float>(values).reshaped(2, 2);
  EXPECT_DEATH(stream_.pool(), "a stream of test:0 has no thread pool");
  ThreadPool pool(1);
  const Stream cpu(pool, InstructionSet::portable);
  EXPECT_DEATH(cpu.queue(), "a stream of the CPU has no queue");
  EXPECT_DEATH(copy(cpu, host, foreign), "memory of test:1 on a stream of cpu");
}

TEST(CopyTest, OnTheCpuLeavesThePadding) {
  ThreadPool pool(1);
  const Stream stream(pool, InstructionSet::portable);
  Arena arena(2 * Arena::matrix_bytes(DType::f32, 2, 3));
  const Tensor from = arena.matrix(DType::f32, 2, 3), to = arena.matrix(DType::f32, 2, 3);
  for (int64_t r = 0; r < 2; ++r)
    for (int64_t c = 0; c < from.row_stride(); ++c)
      from.row<float>(r)[c] = static_cast<float>(10 * r + c + 1);
  copy(stream, from, to);
  EXPECT_EQ(download<float>(stream, to), (std::vector<float>{1, 2, 3, 11, 12, 13}));
  EXPECT_EQ(to.row<float>(0)[3], 0);
  EXPECT_DEATH(copy(stream, from, to.first_rows(1)), ".2, 3. to .* .1, 3.");
}

TEST(CopyTest, AShapeOfAsManyElements) {
  std::vector<int32_t> values(12);
  const Tensor vector = host_vector<int32_t>(values);
  EXPECT_EQ(vector.reshaped(3, 4).row_stride(), 4);
  EXPECT_DEATH(vector.reshaped(3, 5), "as .3, 5.");
  EXPECT_DEATH(vector.reshaped(3, 4).first_columns(2).reshaped(1, 6), "as .1, 6.");
}

}  // namespace
}  // namespace chorale
