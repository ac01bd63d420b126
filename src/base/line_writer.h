// Writes lines to a file descriptor on a thread of its own, so that nobody who has a line to write waits for
// whoever reads it. What a slow reader leaves no room for is dropped and counted; a reader that has gone is
// no error.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

namespace chorale {

// Thread-safe.
class LineWriter {
 public:
  // The line that tells how many were dropped, written once there is room again.
  using DroppedNote = std::function<std::string(uint64_t count)>;

  // The descriptor stays the caller's. At most max_bytes of lines wait.
  LineWriter(int descriptor, size_t max_bytes, DroppedNote dropped_note);
  // Gives what waits a quarter of a second.
  ~LineWriter();
  LineWriter(const LineWriter&) = delete;
  LineWriter& operator=(const LineWriter&) = delete;

  // Takes a line, its end included, or drops it. Never waits for the reader.
  void push(std::string_view line);
  // Waits until all that was pushed is written, or the time is over; says whether it is.
  bool flush(std::chrono::milliseconds limit);

 private:
  void run();
  bool has_work() const { return !waiting_.empty() || dropped_ > 0; }
  bool write(std::string_view text);  // false when it is given up

  const int descriptor_;
  const size_t max_bytes_;
  const DroppedNote dropped_note_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string waiting_;
  uint64_t dropped_ = 0;
  bool is_writing_ = false;
  bool stopping_ = false;  // what waits is still written
  bool given_up_ = false;  // it is not
  std::thread thread_;
};

}  // namespace chorale
