#include "kernels/cuda/runtime.h"

#include "gpu/gpu_test.h"

namespace chorale::cuda {
namespace {

TEST(GpuRuntime, MemoryBeginsAsZerosAndKeepsWhatIsCopied) {
  for (int64_t size : {1, 255, 70'001}) {
    const auto bytes = static_cast<size_t>(size);
    const DeviceBuffer memory(queue().index(), bytes);
    Bytes host(size, 0xFF);
    queue().copy(memory.data(), host.data(), bytes);
    queue().synchronize();
    for (int64_t i = 0; i < size; ++i) ASSERT_EQ(host.data()[i], std::byte{0});
    for (int64_t i = 0; i < size; ++i) host.data()[i] = static_cast<std::byte>(i * 7);
    queue().copy(host.data(), memory.data(), bytes);
    Bytes back(size, 0);
    queue().copy(memory.data(), back.data(), bytes);
    queue().synchronize();
    EXPECT_EQ(std::memcmp(host.data(), back.data(), bytes), 0);
  }
}

TEST(GpuRuntime, ABufferThatIsMovedFromIsEmpty) {
  DeviceBuffer first(queue().index(), 100);
  const std::byte* data = first.data();
  DeviceBuffer second(std::move(first));
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(first.size(), 0U);
  DeviceBuffer third;
  third = std::move(second);
  EXPECT_EQ(third.data(), data);
  EXPECT_EQ(third.size(), 100U);
}

TEST(GpuRuntime, ErrorsNameTheDeviceAndTheCall) {
  try {
    const DeviceBuffer memory(queue().index(), size_t{1} << 60);
    FAIL() << "2^60 bytes";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::AllOf(testing::StartsWith("cuda:0: cudaMalloc failed: "),
                                             testing::HasSubstr("cudaErrorMemoryAllocation")));
  }
  try {
    const Queue absent(device_count());
    FAIL() << "a device that is not there";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("cudaSetDevice failed"));
  }
  queue().synchronize();  // the queue is not hurt
}

TEST(GpuRuntime, AnEventIsReachedWhenWhatWasGivenBeforeItIsDone) {
  Queue own(queue().index());
  own.wait(Event());
  constexpr size_t kBytes = 64 << 20;
  const DeviceBuffer memory(own.index(), kBytes), copied(own.index(), kBytes);
  Buffer host(kBytes), back(kBytes);
  // More places than the queue has events, each awaited late.
  for (int round = 0; round < 20; ++round) {
    std::memset(host.data(), round + 1, kBytes);
    own.copy(host.data(), memory.data(), kBytes);
    own.copy(memory.data(), copied.data(), kBytes);
    own.copy(copied.data(), back.data(), kBytes);
    const Event done = own.record();
    own.copy(memory.data(), copied.data(), kBytes);
    own.wait(done);
    ASSERT_EQ(back.data()[kBytes - 1], static_cast<std::byte>(round + 1));
  }
  own.synchronize();
}

}  // namespace
}  // namespace chorale::cuda
