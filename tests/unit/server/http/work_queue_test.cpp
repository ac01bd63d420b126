#include "server/http/work_queue.h"

#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace chorale::server {
namespace {

constexpr uint64_t kLarge = 8U << 20;

// Work that goes on until it is let go. Every queue below is declared after what its work uses: it ends
// first.
class Gate {
 public:
  std::function<void()> work() {
    return [this] {
      begun_.set_value();
      open_.get_future().wait();
    };
  }
  void wait_until_begun() { begun_.get_future().wait(); }
  void open() { open_.set_value(); }

 private:
  std::promise<void> begun_;
  std::promise<void> open_;
};

TEST(WorkQueue, SmallWorkDoesNotWaitForLarge) {
  Gate first;
  bool second_ran = false;
  std::promise<bool> small;
  WorkQueue queue(2, 100);
  queue.post(kLarge, first.work());
  first.wait_until_begun();
  queue.post(kLarge, [&] { second_ran = true; });
  queue.post(100, [&] { small.set_value(second_ran); });
  EXPECT_FALSE(small.get_future().get()) << "large work had both threads";
  first.open();
}

TEST(WorkQueue, LargeWorkWaitsTheLongerTheLargerItIs) {
  Gate first;
  std::vector<std::string> order;
  std::promise<void> last;
  WorkQueue queue(1, 100);
  queue.post(kLarge, first.work());
  first.wait_until_begun();
  queue.post(kLarge, [&] {
    order.push_back("huge");
    last.set_value();
  });
  queue.post(kLarge / 64, [&] { order.push_back("large"); });
  queue.post(1, [&] { order.push_back("small"); });
  first.open();
  last.get_future().wait();
  EXPECT_EQ(order, (std::vector<std::string>{"small", "large", "huge"}));
}

TEST(WorkQueue, RefusesWhatMayNotWait) {
  Gate first;
  WorkQueue queue(1, 2);
  queue.post(1, first.work());
  first.wait_until_begun();
  EXPECT_TRUE(queue.post(1, [] {}));
  EXPECT_TRUE(queue.post(kLarge, [] {}));
  EXPECT_FALSE(queue.post(1, [] {}));
  first.open();
}

TEST(WorkQueue, DroppedWorkIsGoneAtOnceAndLeavesItsPlace) {
  Gate first;
  WorkQueue queue(1, 1);
  queue.post(1, first.work());
  first.wait_until_begun();
  for (const uint64_t bytes : {uint64_t{1}, kLarge}) {
    const auto body = std::make_shared<std::string>("what it holds");
    bool ran = false;
    const auto id = queue.post(bytes, [body, &ran] { ran = true; });
    if (!id) {  // the queue would wait for the gate
      ADD_FAILURE() << bytes << " bytes were refused";
      break;
    }
    EXPECT_EQ(body.use_count(), 2);
    queue.drop(*id);
    EXPECT_EQ(body.use_count(), 1);
    queue.drop(*id);
    EXPECT_FALSE(ran);
  }
  first.open();
}

TEST(WorkQueue, DropsWhatWaitsWhenItStops) {
  Gate first;
  WorkQueue queue(1, 10);
  queue.post(1, first.work());
  first.wait_until_begun();
  const auto body = std::make_shared<std::string>("what it holds");
  queue.post(1, [body] {});
  queue.post(kLarge, [body] {});
  std::thread stop([&] { queue.stop(); });
  while (body.use_count() > 1) std::this_thread::yield();  // while the first goes on
  first.open();
  stop.join();
}

}  // namespace
}  // namespace chorale::server
