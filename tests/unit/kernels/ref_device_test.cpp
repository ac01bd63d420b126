// The reference device itself: its memory and its queues. What its ops compute is in the tests of the ops.
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <thread>

#include "base/copy.h"
#include "kernels/ref_device/driver.h"
#include "kernels/ref_device/layout.h"
#include "kernels/rows.h"
#include "unit/kernels/kernel_test.h"

namespace chorale::ref_device {
namespace {

class RefDevice : public testing::Test {
 protected:
  Driver driver_;
  WorkQueue queue_{driver_};
  Stream stream_{queue_};
};

TEST_F(RefDevice, WorkIsDoneInOrderOnAThreadOfItsOwn) {
  std::vector<int> done;
  std::thread::id thread;
  for (int i = 0; i < 100; ++i) {
    queue_.enqueue([&, i] {
      thread = std::this_thread::get_id();
      done.push_back(i);
    });
  }
  queue_.synchronize();
  EXPECT_NE(thread, std::this_thread::get_id());
  ASSERT_EQ(done.size(), 100U);
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
}

TEST_F(RefDevice, WhatWorkThrowsComesOutOfSynchronizeOnce) {
  bool later = false;
  queue_.enqueue([] { throw_error("work number {} failed", 1); });
  queue_.enqueue([&] { later = true; });
  try {
    queue_.synchronize();
    ADD_FAILURE() << "expected an error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "work number 1 failed");
  }
  EXPECT_FALSE(later);
  queue_.enqueue([&] { later = true; });
  queue_.synchronize();
  EXPECT_TRUE(later);
}

TEST_F(RefDevice, WorkThatTakesLongerThanTheLimitIsNotWaitedFor) {
  const auto goes_on = std::make_shared<std::atomic<bool>>(true);  // the work outlives this body
  queue_.set_time_limit(std::chrono::milliseconds(20));
  queue_.enqueue([goes_on] {
    while (*goes_on) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
  try {
    queue_.synchronize();
    ADD_FAILURE() << "expected an error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "ref: a step has not ended within 0.02 s");
  }
  *goes_on = false;
}

TEST_F(RefDevice, BreaksOnPurpose) {
  queue_.inject(DeviceFault::error);
  EXPECT_THROW(queue_.synchronize(), Error);
}

TEST_F(RefDevice, AnEventIsReachedWhenWhatWasGivenBeforeItIsDone) {
  std::promise<void> gate;
  int done = 0;
  queue_.wait(Event());
  queue_.enqueue([&] { ++done; });
  const Event first = queue_.record();
  queue_.enqueue([&] { gate.get_future().wait(); });
  queue_.enqueue([&] { ++done; });
  const Event second = queue_.record();
  queue_.wait(first);  // what comes after it cannot be done yet
  EXPECT_EQ(done, 1);
  gate.set_value();
  queue_.wait(second);
  EXPECT_EQ(done, 2);
  queue_.wait(first);
}

TEST_F(RefDevice, WaitingForAnEventThrowsWhatHasFailedBeforeItAlone) {
  queue_.enqueue([] {});
  const Event before = queue_.record();
  queue_.enqueue([] { throw_error("broken"); });
  queue_.enqueue([] {});
  const Event after = queue_.record();
  queue_.wait_for_all();
  queue_.wait(before);
  EXPECT_THROW(queue_.wait(after), Error);
  queue_.wait(after);
}

TEST_F(RefDevice, MemoryIsZeroedAndItsAddressesArePoison) {
  const Buffer buffer(256, Device(driver_));
  const Tensor bytes(buffer.device_data(), DType::u8, 1, 256, 256, buffer.device());
  EXPECT_EQ(download<std::byte>(stream_, bytes), std::vector<std::byte>(256));
  EXPECT_DEATH(EXPECT_EQ(*buffer.device_data(), std::byte{}), "");
  EXPECT_DEATH(follow(buffer.device_data()), "outside its queues");
}

// Work that was given before still finds the memory.
TEST_F(RefDevice, ReleasedMemoryOutlivesTheWorkThatUsesIt) {
  auto buffer = std::make_unique<Buffer>(64, Device(driver_));
  std::byte* const address = buffer->device_data();
  int value = -1;
  queue_.enqueue([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    value = static_cast<int>(*follow(address));
  });
  buffer.reset();
  EXPECT_EQ(value, 0);
}

TEST_F(RefDevice, LayoutsAreNotTheCpus) {
  const KvLayout kv{.dtype = DType::bf16, .num_kv_heads = 3, .head_dim = 10};
  EXPECT_EQ(backend_of(stream_).kv_block_tokens, 64);
  EXPECT_EQ(backend_of(stream_).kv_block_bytes(kv), 3 * 2 * 64 * 10 * 2);
  EXPECT_EQ(KvRows(kv).offset(2, 1, 1, 5), 2 * 7680 + (3 * 64 + 5) * 20);
  const WeightLayout pair{.n = 12, .k = 7, .n_chunks = 4, .fused_pair = true};
  EXPECT_EQ(backend_of(stream_).weight_bytes(pair), 2 * 12 * 7 * 2);
  EXPECT_EQ(backend_of(stream_).output_chunk_offset(pair, 3), 3 * 2 * 3 * 7 * 2);
  EXPECT_EQ(RowMajor(pair).stored_row(7, 1), 2 * 6 + 3 + 1);
}

}  // namespace
}  // namespace chorale::ref_device
