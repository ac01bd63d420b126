// One client connection of the HTTP server: a single read loop, a single write queue, three deadlines.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include "server/http.h"
#include "server/server.h"

namespace chorale::server {

// What all connections of a server share. Outlives them.
struct ConnectionContext {
  ServerOptions options;
  HttpHandler handler;
  HttpErrorBody error_body;
  std::function<void(int)> on_status;  // may be empty
  std::atomic<bool> draining{false};
  std::atomic<int64_t> active_exchanges{0};
  std::atomic<int64_t> connections{0};
  std::atomic<int64_t> turned_away{0};  // beyond the limit, until they are closed
};

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
  // Instead of start(): answers 503 whatever the client wants, and closes.
  void turn_away();

  void post(std::function<void()> function);
  void respond(uint64_t serial, HttpResponse response);
  void begin_stream(uint64_t serial);
  void send_event(uint64_t serial, std::string_view payload);
  void end_stream(uint64_t serial);
  void on_gone(uint64_t serial, std::function<void()> callback);
  size_t queued_bytes() const { return queue_.size() + writing_.size() - written_; }

 private:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  using ErrorCode = boost::system::error_code;
  enum class Phase { idle, header, body, busy, lingering, closed };

  bool is_current(uint64_t serial) const { return phase_ == Phase::busy && serial == serial_ && !ending_; }

  void read_more();
  void on_read(ErrorCode error, size_t bytes);
  void parse_input();
  // False when no more can be parsed for now.
  bool parse_step();
  void on_header();
  void dispatch();
  void refuse(ErrorCode error);
  void refuse(int status, std::string_view message);

  void set_status(int status);
  void write(std::string_view bytes);
  void write_more();
  void on_written(ErrorCode error, size_t bytes);
  bool is_stalled() const;
  void end_exchange();

  void set_deadline(boost::asio::steady_timer& timer, std::chrono::milliseconds delay);
  void on_read_deadline();
  void linger();
  void close();
  void log_access(std::string_view outcome) const;

  ConnectionContext& context_;
  std::atomic<int64_t>& counter_;
  boost::asio::ip::tcp::socket socket_;
  boost::asio::steady_timer read_timer_;
  boost::asio::steady_timer write_timer_;
  Phase phase_ = Phase::idle;
  std::string peer_;

  std::array<char, 16384> read_buffer_{};
  std::string input_;  // read, not yet parsed
  std::optional<Parser> parser_;

  // The request that is being answered.
  uint64_t serial_ = 0;
  std::string method_;
  std::string path_;
  bool keep_alive_ = true;
  bool chunked_ = false;  // the answer is framed in chunks (not for HTTP/1.0)
  bool ending_ = false;   // the answer is complete in the queue
  int status_ = 0;
  std::chrono::steady_clock::time_point started_;
  std::function<void()> gone_;

  std::string queue_;    // waits for writing_ to be written
  std::string writing_;  // the operation in progress
  size_t written_ = 0;
  bool write_pending_ = false;
  std::chrono::steady_clock::time_point last_progress_;  // of what is being written
};

}  // namespace chorale::server
