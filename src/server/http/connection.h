// One client connection of the HTTP server: a single read loop, a single write queue, two deadlines and
// one that a request may have.
//
// A connection that waits for a request holds no buffer: the loop waits until there is something to read, and
// reads it into a buffer of the serving thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>

#include "server/http/cors.h"
#include "server/http/exchange.h"
#include "server/http/options.h"
#include "server/http/request_parser.h"
#include "server/http/take_window.h"

namespace chorale::server {

// What all connections of a server share. Outlives them.
struct ConnectionContext {
  HttpOptions options;
  HttpHandler handler;
  HttpErrorBody error_body;
  std::function<void(int)> on_status;  // may be empty
  HttpAdmission admission;
  CorsPolicy cors{std::vector<std::string>()};
  std::atomic<bool> draining{false};
  std::atomic<int64_t> active_exchanges{0};
  std::atomic<int64_t> connections{0};
  std::atomic<int64_t> turned_away{0};      // beyond the limit, until they are closed
  std::atomic<uint64_t> large_bodies{0};    // read or answered, ever
  std::atomic<uint64_t> buffered_bytes{0};  // held by requests until their text is tokenized
};

// An assignment would keep the memory.
inline void release(std::string& text) {
  std::string().swap(text);
}

// Everything runs on the socket's executor, a strand; the functions with a serial are for the Exchange of
// that request and do nothing once it is over.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  // Counts itself in `counter`, one of the context's.
  Connection(boost::asio::ip::tcp::socket socket, ConnectionContext& context, std::atomic<int64_t>& counter);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void start();
  // Instead of start(): answers one request and closes, 503 but for /health and /metrics; 503 also when none
  // comes soon.
  void turn_away();

  void post(std::function<void()> function);
  void respond(uint64_t serial, HttpResponse response);
  void respond_in_parts(uint64_t serial, HttpResponse response, BodyParts parts);
  void begin_stream(uint64_t serial);
  void send_event(uint64_t serial, std::string_view payload, std::string_view name);
  void end_stream(uint64_t serial);
  void on_gone(uint64_t serial, std::function<void()> callback);
  void on_timeout(uint64_t serial, std::chrono::milliseconds delay, std::function<void()> callback);
  size_t queued_bytes() const { return queue_.size() + writing_.size() - written_; }

 private:
  using ErrorCode = boost::system::error_code;
  enum class Phase { idle, header, body, busy, lingering, closed };

  bool is_current(uint64_t serial) const { return phase_ == Phase::busy && serial == serial_ && !ending_; }

  // An exception that gets here is a failed allocation, most likely: it ends the connection, and no other.
  void run(const std::function<void()>& work);
  void open();
  void read_more();
  void on_readable(ErrorCode error);
  void parse(std::string_view bytes);
  void on_parsed();
  void on_header();
  void keep(std::string_view bytes);
  bool charge(uint64_t bytes);
  void begin_exchange();
  void dispatch();
  void refuse_beyond_limit();
  void refuse(HttpRefusal refusal, bool keep_alive = false);

  void set_status(int status);
  void write_frame(std::string_view frame);
  void ping_later(std::chrono::milliseconds delay);
  void on_ping_time();
  void write(std::string_view bytes);
  void write_more();
  bool queue_next_part();
  void note_bytes(size_t bytes);
  void on_written(ErrorCode error, size_t bytes);
  bool is_stalled();
  void end_exchange();

  void set_deadline(boost::asio::steady_timer& timer, std::chrono::milliseconds delay);
  void on_read_deadline();
  void on_write_deadline();
  void linger();
  void cut_off(std::string_view why);
  void close();
  void log_access(std::string_view outcome) const;

  ConnectionContext& context_;
  std::atomic<int64_t>& counter_;
  boost::asio::ip::tcp::socket socket_;
  boost::asio::steady_timer read_timer_;
  boost::asio::steady_timer write_timer_;
  Phase phase_ = Phase::idle;
  bool is_beyond_limit_ = false;  // of connections
  std::string peer_;

  std::unique_ptr<HttpRequestParser> parser_;  // reads the current request
  std::string input_;                          // sent ahead, while another request is being answered
  uint64_t charged_ = 0;                       // our share of the context's buffered_bytes

  // The request that is being answered.
  uint64_t serial_ = 0;
  std::string method_;
  std::string path_;
  std::string request_id_;
  std::string cors_lines_;  // of the answer
  bool keep_alive_ = true;
  bool chunked_ = false;  // the answer is framed in chunks (not for HTTP/1.0)
  bool ending_ = false;   // the answer is complete in the queue
  int status_ = 0;
  std::chrono::steady_clock::time_point started_;
  std::function<void()> gone_;
  std::optional<boost::asio::steady_timer> answer_timer_;  // only few requests have one
  std::optional<boost::asio::steady_timer> ping_timer_;    // streams have one
  std::chrono::steady_clock::time_point last_frame_;       // of the stream

  BodyParts parts_;      // of the answer's body that are still to come; may be empty
  std::string queue_;    // waits for writing_ to be written
  std::string writing_;  // the operation in progress
  size_t written_ = 0;
  bool write_pending_ = false;
  uint64_t taken_ = 0;       // bytes, ever
  TakeWindow write_window_;  // while anything waits to be taken
  bool overfull_ = false;    // more than max_write_queue_bytes wait
  TakeWindow stall_window_;  // while overfull_
};

}  // namespace chorale::server
