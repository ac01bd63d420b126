#include "base/device.h"

#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/copy.h"

namespace chorale {
namespace {

// A device whose addresses the host cannot follow: those of its memory with the highest bit set. What is
// given to its queue happens when the queue is synchronized.
class PoisonedDriver final : public DeviceDriver {
 public:
  explicit PoisonedDriver(std::string name, size_t capacity = SIZE_MAX)
      : name_(std::move(name)), capacity_(capacity) {}
  ~PoisonedDriver() override { EXPECT_EQ(used_, 0u) << "bytes were not released"; }
  DeviceKind kind() const override { return DeviceKind::ref; }
  std::string name() const override { return name_; }
  uint64_t free_memory() const override { return capacity_ - used_; }
  std::unique_ptr<Queue> make_queue() override;
  std::byte* allocate(size_t bytes) override {
    if (bytes > capacity_ - used_) throw_error("{} has no {} bytes left", name_, bytes);
    used_ += bytes;
    auto* memory = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{256}));
    std::memset(memory, 0, bytes);
    return poisoned(memory);
  }
  void release(std::byte* data, size_t bytes) noexcept override {
    used_ -= bytes;
    ::operator delete (poisoned(data), std::align_val_t{256});
  }
  std::byte* allocate_host(size_t bytes) override { return poisoned(allocate(bytes)); }
  void release_host(std::byte* data, size_t bytes) noexcept override { release(poisoned(data), bytes); }
  static std::byte* poisoned(std::byte* data) {
    return reinterpret_cast<std::byte*>(reinterpret_cast<uintptr_t>(data) ^ (uintptr_t{1} << 63));
  }

 private:
  std::string name_;
  size_t capacity_;
  size_t used_ = 0;
};

class LateQueue final : public Queue {
 public:
  explicit LateQueue(Device device) : device_(device) {}
  Device device() const override { return device_; }
  void copy(const Tensor& source, const Tensor& target) override {
    work_.push_back([source, target] {
      const auto element = static_cast<int64_t>(size_of(source.dtype()));
      for (int64_t r = 0; r < source.rows(); ++r)
        std::memcpy(address(target) + r * target.row_stride() * element,
                    address(source) + r * source.row_stride() * element,
                    static_cast<size_t>(source.columns() * element));
    });
  }
  void synchronize() override {
    for (const auto& work : work_) work();
    work_.clear();
  }

 private:
  static std::byte* address(const Tensor& t) {
    return t.device().is_host_memory() ? t.bytes() : PoisonedDriver::poisoned(t.device_bytes());
  }
  Device device_;
  std::vector<std::function<void()>> work_;
};

std::unique_ptr<Queue> PoisonedDriver::make_queue() {
  return std::make_unique<LateQueue>(Device(*this));
}

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
  EXPECT_DEATH(copy(stream_, host, foreign), "memory of test:1 on a stream of test:0");
  EXPECT_DEATH(copy(stream_, foreign, host), "memory of test:1 on a stream of test:0");
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
