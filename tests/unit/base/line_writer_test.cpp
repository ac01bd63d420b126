#include "base/line_writer.h"

#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

namespace chorale {
namespace {

using std::chrono::milliseconds;

class LineWriterTest : public testing::Test {
 protected:
  LineWriterTest() {
    EXPECT_EQ(pipe2(ends_, O_CLOEXEC), 0);
    fcntl(ends_[1], F_SETPIPE_SZ, 4096);
  }
  ~LineWriterTest() override {
    close_reader();
    close(ends_[1]);
  }
  int writing_end() const { return ends_[1]; }
  void close_reader() {
    if (ends_[0] >= 0) close(ends_[0]);
    ends_[0] = -1;
  }
  std::string read_some() const {
    pollfd ready{.fd = ends_[0], .events = POLLIN, .revents = 0};
    if (poll(&ready, 1, 30'000) != 1) throw std::runtime_error("nothing to read for 30 s");
    std::string text(1 << 16, '\0');
    text.resize(static_cast<size_t>(read(ends_[0], text.data(), text.size())));
    return text;
  }
  static std::string note(uint64_t count) { return fmt::format("[{} dropped]\n", count); }

  int ends_[2] = {-1, -1};
};

TEST_F(LineWriterTest, LinesOfManyThreadsArriveWholeAndInTheirOrder) {
  constexpr int kThreads = 4, kLines = 500;
  std::string text;
  std::thread reader([&] {
    while (text.find("end\n") == std::string::npos) text += read_some();
  });
  {
    LineWriter writer(writing_end(), 1 << 20, note);
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t)
      threads.emplace_back([&writer, t] {
        for (int i = 0; i < kLines; ++i) writer.push(fmt::format("{} {}{:.>100}\n", t, i, ""));
      });
    for (std::thread& thread : threads) thread.join();
    writer.push("end\n");
    EXPECT_TRUE(writer.flush(milliseconds(10'000)));
  }
  reader.join();
  std::vector<int> next(kThreads);
  size_t lines = 0;
  for (size_t begin = 0; text.compare(begin, 4, "end\n") != 0; ++lines) {
    const size_t end = text.find('\n', begin);
    const int thread = text[begin] - '0';
    EXPECT_EQ(std::stoi(text.substr(begin + 2)), next[static_cast<size_t>(thread)]++);
    begin = end + 1;
  }
  EXPECT_EQ(lines, static_cast<size_t>(kThreads * kLines));
}

TEST_F(LineWriterTest, WhatDoesNotFitIsDroppedCountedAndToldInItsPlace) {
  std::string line(999, 'x');
  line += '\n';
  LineWriter writer(writing_end(), 10'000, note);
  for (int i = 0; i < 100; ++i) writer.push(line);
  EXPECT_FALSE(writer.flush(milliseconds(20)));
  std::string text;
  while (text.find(" dropped]\n") == std::string::npos) text += read_some();
  const size_t mark = text.find('[');
  const auto kept = static_cast<int>(mark / line.size());
  EXPECT_EQ(mark % line.size(), 0u);
  EXPECT_EQ(std::stoi(text.substr(mark + 1)), 100 - kept);
  EXPECT_TRUE(writer.flush(milliseconds(10'000)));
  writer.push("after\n");
  EXPECT_TRUE(writer.flush(milliseconds(10'000)));
  EXPECT_NE(read_some().find("after\n"), std::string::npos);
}

TEST_F(LineWriterTest, ALineLongerThanTheQueueIsDroppedAndTold) {
  LineWriter writer(writing_end(), 10, note);
  std::this_thread::sleep_for(milliseconds(50));  // by now its thread waits for work
  writer.push("longer than the queue\n");
  EXPECT_TRUE(writer.flush(milliseconds(10'000)));
  EXPECT_EQ(read_some(), "[1 dropped]\n");
}

TEST_F(LineWriterTest, AReaderThatHasGoneIsNoError) {
  LineWriter writer(writing_end(), 1 << 20, note);
  close_reader();
  for (int i = 0; i < 100; ++i) writer.push(std::string(1000, 'x'));  // a SIGPIPE would end the test
  EXPECT_TRUE(writer.flush(milliseconds(10'000)));
}

TEST_F(LineWriterTest, EndsAlthoughNobodyReads) {
  const auto start = std::chrono::steady_clock::now();
  {
    LineWriter writer(writing_end(), 1 << 20, note);
    for (int i = 0; i < 100; ++i) writer.push(std::string(1000, 'x'));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

}  // namespace
}  // namespace chorale
