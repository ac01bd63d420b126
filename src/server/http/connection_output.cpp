// What a connection writes, and how much a client must take of it.
#include <exception>
#include <string>
#include <utility>

#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <fmt/format.h>

#include "server/http/connection.h"

namespace chorale::server {
namespace {

namespace asio = boost::asio;

// What a client must take while more waits for it: ever, and when much waits.
constexpr uint64_t kMinBytesPerSecond = 1U << 10;
constexpr uint64_t kMinBytesPerSecondWhenOverfull = 64U << 10;
// However fast the client is, and however small max_write_queue_bytes: far more than any burst.
constexpr size_t kMaxWaitingBytes = 64U << 20;

}  // namespace

void Connection::write(std::string_view bytes) {
  queue_ += bytes;
  if (!write_pending_) {
    write_pending_ = true;
    write_window_.begin(taken_);
    set_deadline(write_timer_, context_.options.write_timeout);
    // Not at once: what follows in the same handler goes out in the same segment.
    asio::post(socket_.get_executor(), [self = shared_from_this()] { self->write_more(); });
  }
}

void Connection::write_more() {
  if (phase_ == Phase::closed) return;
  if (written_ == writing_.size()) {
    if (queue_.empty() && parts_ && !queue_next_part()) return;
    writing_ = std::exchange(queue_, {});
    written_ = 0;
  }
  if (writing_.empty()) {
    write_pending_ = false;
    release(writing_);
    write_timer_.cancel();
    if (phase_ == Phase::busy && ending_) end_exchange();
    return;
  }
  socket_.async_write_some(
      asio::buffer(writing_.data() + written_, writing_.size() - written_),
      [self = shared_from_this()](ErrorCode error, size_t n) { self->on_written(error, n); });
}

void Connection::on_written(ErrorCode error, size_t bytes) {
  if (phase_ == Phase::closed) return;
  if (error) return close();
  written_ += bytes;
  taken_ += bytes;
  write_more();
}

// The bytes alone do not tell: many sequences that end in one step are a burst that any client needs time
// for.
bool Connection::is_stalled() {
  const size_t queued = queued_bytes();
  const bool was_overfull = std::exchange(overfull_, queued > context_.options.max_write_queue_bytes);
  if (!overfull_) return false;
  if (queued > kMaxWaitingBytes) return true;
  const std::chrono::milliseconds length = context_.options.stall_timeout;
  if (was_overfull && stall_window_.is_slow(taken_, length, kMinBytesPerSecondWhenOverfull)) return true;
  if (!was_overfull || stall_window_.is_over(length)) stall_window_.begin(taken_);
  return false;
}

// False: there is none, and the connection is closed.
bool Connection::queue_next_part() {
  std::string part;
  bool has_more = false;
  try {
    has_more = parts_(part);
  } catch (const std::exception& error) {
    cut_off(fmt::format("cannot be told the rest of its answer ({})", error.what()));
    return false;
  }
  queue_ += chunked_ && !part.empty() ? fmt::format("{:x}\r\n{}\r\n", part.size(), part) : part;
  if (has_more) return true;
  parts_ = nullptr;
  ending_ = true;
  if (chunked_) queue_ += "0\r\n\r\n";
  return true;
}

// Some progress is not enough: a client could take a byte at a time for ever.
void Connection::on_write_deadline() {
  if (!write_pending_) return;
  const std::chrono::milliseconds length = context_.options.write_timeout;
  if (write_window_.is_slow(taken_, length, kMinBytesPerSecond)) return cut_off("takes too little data");
  write_window_.begin(taken_);
  set_deadline(write_timer_, length);
}

}  // namespace chorale::server
