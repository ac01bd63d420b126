// Notices processes that end.
#include "comm/peer_watch.h"

#include <array>
#include <chrono>
#include <csignal>
#include <thread>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

namespace chorale::comm {
namespace {

using std::chrono::milliseconds;

// A process that does nothing until it is killed.
class Child {
 public:
  Child() : pid_(fork()) {
    while (pid_ == 0) pause();
  }
  ~Child() {
    end();
    waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }
  void end() const { kill(pid_, SIGKILL); }

 private:
  const pid_t pid_;
};

TEST(PeerWatch, NamesTheFirstThatEnds) {
  const std::array<Child, 3> children;
  const std::array<PeerWatch::Peer, 3> peers{PeerWatch::Peer{.rank = 4, .pid = children[0].pid()},
                                             PeerWatch::Peer{.rank = 0, .pid = children[1].pid()},
                                             PeerWatch::Peer{.rank = 9, .pid = children[2].pid()}};
  const PeerWatch watch(peers);
  ASSERT_EQ(watch.size(), 3);
  EXPECT_FALSE(watch.dead_peer());
  EXPECT_FALSE(watch.dead_peer(milliseconds(5)));
  children[2].end();
  EXPECT_EQ(watch.dead_peer(milliseconds(5000)), 9);
  children[1].end();
  std::this_thread::sleep_for(milliseconds(20));
  for (int i = 0; i < 5; ++i) EXPECT_EQ(watch.dead_peer(), 9) << "the first, whoever follows";
}

TEST(PeerWatch, WakesWhoeverWaits) {
  const Child child;
  const std::array<PeerWatch::Peer, 1> peers{PeerWatch::Peer{.rank = 1, .pid = child.pid()}};
  const PeerWatch watch(peers);
  std::thread killer([&] {
    std::this_thread::sleep_for(milliseconds(50));
    child.end();
  });
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(watch.dead_peer(milliseconds(60'000)), 1);
  EXPECT_LT(std::chrono::steady_clock::now() - start, milliseconds(20'000));
  killer.join();
}

TEST(PeerWatch, NobodyToWatch) {
  const PeerWatch watch({});
  EXPECT_EQ(watch.size(), 0);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(watch.dead_peer(milliseconds(5)));
  EXPECT_GE(std::chrono::steady_clock::now() - start, milliseconds(5));
}

}  // namespace
}  // namespace chorale::comm
