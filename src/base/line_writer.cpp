#include "base/line_writer.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <string_view>
#include <utility>

#include <poll.h>
#include <unistd.h>

namespace chorale {
namespace {

// A pipe that poll() calls writable takes this much without blocking (PIPE_BUF of Linux).
constexpr size_t kAtOnce = 4096;
constexpr int kPollMilliseconds = 50;
constexpr std::chrono::milliseconds kAtTheEnd{250};

}  // namespace

LineWriter::LineWriter(int descriptor, size_t max_bytes, DroppedNote dropped_note)
    : descriptor_(descriptor),
      max_bytes_(max_bytes),
      dropped_note_(std::move(dropped_note)),
      thread_([this] { run(); }) {}

LineWriter::~LineWriter() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  flush(kAtTheEnd);
  {
    const std::lock_guard lock(mutex_);
    given_up_ = true;
  }
  thread_.join();
}

void LineWriter::push(std::string_view line) {
  {
    const std::lock_guard lock(mutex_);
    if (dropped_ > 0 || waiting_.size() + line.size() > max_bytes_) {
      ++dropped_;  // also what would fit, until the gap has been told: that is work as a line is
    } else {
      waiting_ += line;
    }
  }
  changed_.notify_all();
}

bool LineWriter::flush(std::chrono::milliseconds limit) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, limit, [this] { return !has_work() && !is_writing_; });
}

void LineWriter::run() {
  // A reader that has gone raises SIGPIPE in the thread that writes; blocked here, write() says EPIPE alone.
  sigset_t pipe;
  sigemptyset(&pipe);
  sigaddset(&pipe, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe, nullptr);

  std::string text;
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || has_work(); });
    if (!has_work()) return;
    text.clear();
    std::swap(text, waiting_);
    is_writing_ = true;
    const uint64_t dropped = std::exchange(dropped_, 0);
    lock.unlock();
    if (dropped > 0) text += dropped_note_(dropped);
    const bool is_written = write(text);
    lock.lock();
    is_writing_ = false;
    if (!is_written) waiting_.clear();
    changed_.notify_all();
    if (given_up_) return;
  }
}

bool LineWriter::write(std::string_view text) {
  while (!text.empty()) {
    pollfd ready{.fd = descriptor_, .events = POLLOUT, .revents = 0};
    const int count = poll(&ready, 1, kPollMilliseconds);
    {
      const std::lock_guard lock(mutex_);
      if (given_up_) return false;
    }
    if (count <= 0) continue;  // no room yet
    const ssize_t written = ::write(descriptor_, text.data(), std::min(text.size(), kAtOnce));
    if (written < 0 && errno != EINTR && errno != EAGAIN)
      return false;  // the reader has gone, or the disk is full
    if (written > 0) text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

}  // namespace chorale
