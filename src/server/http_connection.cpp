#include "server/http_connection.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/field.hpp>
#include <boost/beast/http/rfc7230.hpp>
#include <fmt/format.h>

#include "base/log.h"

namespace chorale::server {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;

// What a client may send ahead of the answer to its current request.
constexpr size_t kMaxPipelinedBytes = 64U << 10;
// How long a refused client may go on sending before the connection is closed; closing at once would reset it
// and could destroy the answer on its way.
constexpr std::chrono::milliseconds kLinger{2000};
constexpr size_t kMaxLoggedPath = 200;

// The exchange of one request: forwards to its connection, which outlives it.
class ConnectionExchange : public Exchange {
 public:
  ConnectionExchange(std::shared_ptr<Connection> connection, uint64_t serial)
      : connection_(std::move(connection)), serial_(serial) {}

  void post(std::function<void()> function) override { connection_->post(std::move(function)); }
  void respond(HttpResponse response) override { connection_->respond(serial_, std::move(response)); }
  void begin_stream() override { connection_->begin_stream(serial_); }
  void send_event(std::string_view payload) override { connection_->send_event(serial_, payload); }
  void end_stream() override { connection_->end_stream(serial_); }
  size_t queued_bytes() const override { return connection_->queued_bytes(); }
  void on_gone(std::function<void()> callback) override {
    connection_->on_gone(serial_, std::move(callback));
  }

 private:
  std::shared_ptr<Connection> connection_;
  uint64_t serial_;
};

std::string media_type(std::string_view content_type) {
  std::string_view type = content_type.substr(0, content_type.find(';'));
  while (!type.empty() && (type.back() == ' ' || type.back() == '\t')) type.remove_suffix(1);
  std::string lower(type);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return lower;
}

std::string_view to_view(boost::beast::string_view text) {
  return {text.data(), text.size()};
}

}  // namespace

Connection::Connection(tcp::socket socket, ConnectionContext& context, std::atomic<int64_t>& counter)
    : context_(context),
      counter_(counter),
      socket_(std::move(socket)),
      read_timer_(socket_.get_executor()),
      write_timer_(socket_.get_executor()) {
  ++counter_;
}

Connection::~Connection() {
  --counter_;
}

void Connection::turn_away() {
  refuse(503, "too many connections");
  read_more();
}

void Connection::start() {
  ErrorCode ignored;
  socket_.set_option(tcp::no_delay(true), ignored);
  const tcp::endpoint endpoint = socket_.remote_endpoint(ignored);
  peer_ = ignored ? "?" : fmt::format("{}:{}", endpoint.address().to_string(), endpoint.port());
  set_deadline(read_timer_, context_.options.idle_timeout);
  read_more();
}

void Connection::post(std::function<void()> function) {
  asio::post(socket_.get_executor(),
             [self = shared_from_this(), function = std::move(function)] { function(); });
}

// ---- reading

void Connection::read_more() {
  socket_.async_read_some(asio::buffer(read_buffer_), [self = shared_from_this()](ErrorCode error, size_t n) {
    self->on_read(error, n);
  });
}

void Connection::on_read(ErrorCode error, size_t bytes) {
  if (phase_ == Phase::closed) return;
  if (error) return close();  // the end of the stream, too: a client that no longer listens to its answer
  if (phase_ != Phase::lingering) {
    input_.append(read_buffer_.data(), bytes);
    parse_input();
    if (phase_ == Phase::closed) return;
    if (phase_ == Phase::busy && input_.size() > kMaxPipelinedBytes) {
      log::warn("{} sent more than {} bytes ahead of an answer; closing", peer_, kMaxPipelinedBytes);
      return close();
    }
  }
  read_more();
}

void Connection::parse_input() {
  while (phase_ == Phase::idle || phase_ == Phase::header || phase_ == Phase::body) {
    if (!parse_step()) return;
  }
}

bool Connection::parse_step() {
  if (phase_ == Phase::idle) {
    // Some clients end a body with a line break of their own (RFC 9112, 2.2).
    while (input_.starts_with("\r\n")) input_.erase(0, 2);
    if (input_.empty()) return false;
    phase_ = Phase::header;
    parser_.emplace();
    parser_->eager(true);
    parser_->header_limit(context_.options.max_header_bytes);
    parser_->body_limit(context_.options.max_body_bytes);
    set_deadline(read_timer_, context_.options.header_timeout);
  }
  if (input_.empty()) return false;
  ErrorCode error;
  const size_t used = parser_->put(asio::buffer(input_), error);
  input_.erase(0, used);
  if (error && error != http::error::need_more) {
    refuse(error);
    return false;
  }
  if (phase_ == Phase::header && parser_->is_header_done()) on_header();
  if (parser_->is_done()) {
    dispatch();
    return true;
  }
  return used > 0 && error != http::error::need_more;
}

void Connection::on_header() {
  phase_ = Phase::body;
  set_deadline(read_timer_, context_.options.body_timeout);
  const auto expect = parser_->get().find(http::field::expect);
  if (expect != parser_->get().end() && boost::beast::iequals(expect->value(), "100-continue") &&
      !parser_->is_done()) {
    write("HTTP/1.1 100 Continue\r\n\r\n");
  }
}

void Connection::dispatch() {
  http::request<http::string_body> message = parser_->release();
  parser_.reset();
  read_timer_.cancel();
  phase_ = Phase::busy;
  ++serial_;
  ++context_.active_exchanges;
  ending_ = false;
  status_ = 0;
  started_ = std::chrono::steady_clock::now();
  keep_alive_ = message.keep_alive();
  chunked_ = message.version() >= 11;
  method_ = std::string(to_view(message.method_string()));
  path_ = std::string(to_view(message.target()).substr(0, to_view(message.target()).find('?')));

  HttpRequest request;
  request.method = method_;
  request.path = path_;
  request.content_type = media_type(to_view(message[http::field::content_type]));
  request.body = std::move(message.body());
  context_.handler(std::move(request), std::make_shared<ConnectionExchange>(shared_from_this(), serial_));
}

void Connection::refuse(ErrorCode error) {
  if (error == http::error::body_limit) {
    refuse(413, fmt::format("the request body is larger than {} bytes", context_.options.max_body_bytes));
  } else if (error == http::error::header_limit) {
    refuse(431, fmt::format("the request header is larger than {} bytes", context_.options.max_header_bytes));
  } else {
    refuse(400, fmt::format("this is not a valid HTTP/1.1 request: {}", error.message()));
  }
}

// Answers a request that was not read to its end; the connection cannot be used any further.
void Connection::refuse(int status, std::string_view message) {
  read_timer_.cancel();
  parser_.reset();
  input_.clear();
  phase_ = Phase::busy;
  ++serial_;
  ++context_.active_exchanges;
  ending_ = false;
  keep_alive_ = false;
  chunked_ = false;
  started_ = std::chrono::steady_clock::now();
  method_.assign(1, '?');
  path_ = method_;
  HttpResponse response;
  response.status = status;
  response.body = context_.error_body(status, message);
  if (status == 503) response.headers.emplace_back("Retry-After", "1");
  respond(serial_, std::move(response));
}

// ---- answering

void Connection::respond(uint64_t serial, HttpResponse response) {
  if (!is_current(serial)) return;
  if (context_.draining) keep_alive_ = false;
  set_status(response.status);
  std::string head = fmt::format("HTTP/1.1 {} {}\r\n", response.status, reason_phrase(response.status));
  if (!response.body.empty()) head += fmt::format("Content-Type: {}\r\n", response.content_type);
  if (response.status != 204) head += fmt::format("Content-Length: {}\r\n", response.body.size());
  for (const auto& [name, value] : response.headers) head += fmt::format("{}: {}\r\n", name, value);
  head += keep_alive_ ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
  ending_ = true;
  if (method_ != "HEAD") head += response.body;
  write(head);
}

// Of the answer that is about to be written.
void Connection::set_status(int status) {
  status_ = status;
  if (context_.on_status) context_.on_status(status);
}

void Connection::begin_stream(uint64_t serial) {
  if (!is_current(serial)) return;
  if (context_.draining || !chunked_) keep_alive_ = false;
  set_status(200);
  std::string head =
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
      "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n";
  if (chunked_) head += "Transfer-Encoding: chunked\r\n";
  head += keep_alive_ ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
  write(head);
}

void Connection::send_event(uint64_t serial, std::string_view payload) {
  if (!is_current(serial)) return;
  if (is_stalled()) {
    log::warn("{} does not read its stream; cutting it off", peer_);
    return close();
  }
  const std::string frame = sse_frame(payload);
  write(chunked_ ? fmt::format("{:x}\r\n{}\r\n", frame.size(), frame) : frame);
}

void Connection::end_stream(uint64_t serial) {
  if (!is_current(serial)) return;
  ending_ = true;
  if (chunked_) write("0\r\n\r\n");
  if (!write_pending_) end_exchange();
}

void Connection::on_gone(uint64_t serial, std::function<void()> callback) {
  if (is_current(serial)) {
    gone_ = std::move(callback);
  } else {
    callback();
  }
}

// ---- writing

void Connection::write(std::string_view bytes) {
  queue_ += bytes;
  if (!write_pending_) {
    write_pending_ = true;
    last_progress_ = std::chrono::steady_clock::now();
    // Not at once: what follows in the same handler goes out in the same segment.
    asio::post(socket_.get_executor(), [self = shared_from_this()] { self->write_more(); });
  }
}

void Connection::write_more() {
  if (phase_ == Phase::closed) return;
  if (written_ == writing_.size()) {
    writing_ = std::exchange(queue_, {});
    written_ = 0;
  }
  if (writing_.empty()) {
    write_pending_ = false;
    write_timer_.cancel();
    if (phase_ == Phase::busy && ending_) end_exchange();
    return;
  }
  set_deadline(write_timer_, context_.options.write_timeout);
  socket_.async_write_some(
      asio::buffer(writing_.data() + written_, writing_.size() - written_),
      [self = shared_from_this()](ErrorCode error, size_t n) { self->on_written(error, n); });
}

void Connection::on_written(ErrorCode error, size_t bytes) {
  if (phase_ == Phase::closed) return;
  if (error) return close();
  written_ += bytes;
  last_progress_ = std::chrono::steady_clock::now();
  write_more();
}

// The bytes alone do not tell: many sequences that end in one step are a burst that any client needs time
// for.
bool Connection::is_stalled() const {
  return queued_bytes() > context_.options.max_write_queue_bytes &&
         std::chrono::steady_clock::now() - last_progress_ > context_.options.stall_timeout;
}

// The answer has been written whole.
void Connection::end_exchange() {
  log_access(fmt::format("{}", status_));
  --context_.active_exchanges;
  gone_ = nullptr;
  if (!keep_alive_) return linger();
  phase_ = Phase::idle;
  set_deadline(read_timer_, context_.options.idle_timeout);
  parse_input();
}

// ---- deadlines and the end

void Connection::set_deadline(asio::steady_timer& timer, std::chrono::milliseconds delay) {
  timer.expires_after(delay);
  timer.async_wait([weak = weak_from_this(), &timer](ErrorCode error) {
    const auto self = weak.lock();
    if (error || !self || self->phase_ == Phase::closed) return;
    if (timer.expiry() > std::chrono::steady_clock::now()) return;  // was set anew meanwhile
    if (&timer == &self->write_timer_) {
      log::warn("{} takes no data; cutting it off", self->peer_);
      self->close();
    } else {
      self->on_read_deadline();
    }
  });
}

void Connection::on_read_deadline() {
  switch (phase_) {
    case Phase::header:
      return refuse(408, "the request header did not arrive in time");
    case Phase::body:
      return refuse(408, "the request body did not arrive in time");
    case Phase::idle:
    case Phase::lingering:
      return close();
    case Phase::busy:
    case Phase::closed:
      return;
  }
}

void Connection::linger() {
  phase_ = Phase::lingering;
  ErrorCode ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  set_deadline(read_timer_, kLinger);
}

void Connection::close() {
  const bool was_busy = phase_ == Phase::busy;
  phase_ = Phase::closed;
  ErrorCode ignored;
  read_timer_.cancel();
  write_timer_.cancel();
  socket_.close(ignored);
  if (!was_busy) return;
  log_access("client gone");
  --context_.active_exchanges;
  if (const auto callback = std::exchange(gone_, nullptr)) callback();
}

void Connection::log_access(std::string_view outcome) const {
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started_;
  const std::string_view path = std::string_view(path_).substr(0, kMaxLoggedPath);
  const std::string line = fmt::format("{} {} {} {} {:.3f}s", peer_, method_, path, outcome, seconds.count());
  if (path == "/health" || path == "/metrics") {
    log::debug("{}", line);
  } else {
    log::info("{}", line);
  }
}

}  // namespace chorale::server
