#include "server/http/connection.h"

#include <exception>
#include <utility>
#include <vector>

#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <fmt/format.h>

#include "base/log.h"
#include "server/http/authorization.h"
#include "server/http/connection_exchange.h"
#include "server/http/framing.h"
#include "server/http/random_id.h"

namespace chorale::server {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

// What a client may send ahead of the answer to its current request.
constexpr size_t kMaxPipelinedBytes = 64U << 10;
// How long a refused client may go on sending before the connection is closed; closing at once would reset it
// and could destroy the answer on its way.
constexpr std::chrono::milliseconds kLinger{2000};
constexpr size_t kMaxLoggedPath = 200;
// From here on the memory that a body took is worth giving back.
constexpr size_t kLargeBody = 256U << 10;
constexpr size_t kReadBytes = 64U << 10;

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
  charge(0);
  --counter_;
}

void Connection::turn_away() {
  open();
  is_beyond_limit_ = true;
  set_deadline(read_timer_, kLinger);
  read_more();
}

void Connection::refuse_beyond_limit() {
  refuse({.status = 503, .message = "too many connections"});
}

void Connection::start() {
  open();
  set_deadline(read_timer_, context_.options.idle_timeout);
  read_more();
}

void Connection::open() {
  ErrorCode ignored;
  socket_.set_option(tcp::no_delay(true), ignored);
  socket_.non_blocking(true, ignored);
  const tcp::endpoint endpoint = socket_.remote_endpoint(ignored);
  peer_ = ignored ? "?" : fmt::format("{}:{}", endpoint.address().to_string(), endpoint.port());
}

void Connection::post(std::function<void()> function) {
  asio::post(socket_.get_executor(),
             [self = shared_from_this(), function = std::move(function)] { self->run(function); });
}

void Connection::run(const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& error) {
    log::error("while serving {}: {}", peer_, error.what());
    close();
  }
}

// ---- reading

void Connection::read_more() {
  socket_.async_wait(tcp::socket::wait_read,
                     [self = shared_from_this()](ErrorCode error) { self->on_readable(error); });
}

void Connection::on_readable(ErrorCode error) {
  if (phase_ == Phase::closed) return;
  if (error) return close();
  thread_local std::vector<char> buffer(kReadBytes);
  const size_t size = socket_.read_some(asio::buffer(buffer), error);
  const bool nothing = error == asio::error::would_block || error == asio::error::interrupted;
  if (error && !nothing) return close();  // the end of the stream, too: nobody listens to the answer
  if (!nothing && phase_ != Phase::lingering) run([&] { parse({buffer.data(), size}); });
  if (phase_ != Phase::closed) read_more();
}

void Connection::parse(std::string_view bytes) {
  while (!bytes.empty() && (phase_ == Phase::idle || phase_ == Phase::header || phase_ == Phase::body)) {
    if (!parser_) {
      const HttpOptions& options = context_.options;
      parser_ = std::make_unique<HttpRequestParser>(
          HttpLimits{options.max_header_bytes, options.max_target_bytes, options.max_body_bytes});
    }
    bytes.remove_prefix(parser_->put(bytes));
    on_parsed();
  }
  if (phase_ == Phase::busy) keep(bytes);
}

void Connection::on_parsed() {
  if (phase_ == Phase::idle && parser_->state() != HttpRequestParser::State::idle) {
    phase_ = Phase::header;
    if (!is_beyond_limit_) set_deadline(read_timer_, context_.options.header_timeout);
  }
  if (phase_ == Phase::header && parser_->has_header()) {
    on_header();
    if (!parser_) return;
  }
  if (parser_->state() == HttpRequestParser::State::failed) {
    return refuse({.status = parser_->status(), .message = parser_->message()});
  }
  if (!charge(parser_->held_bytes())) {
    return refuse({.status = 503, .message = "the server holds as many unfinished requests as it may"});
  }
  if (parser_->state() == HttpRequestParser::State::complete) dispatch();
}

// Whether the body will be read is decided before it is.
void Connection::on_header() {
  phase_ = Phase::body;
  set_deadline(read_timer_, context_.options.body_timeout);
  method_ = parser_->request().method;
  path_ = parser_->request().path;
  request_id_ = parser_->request().id;
  cors_lines_ = context_.cors.header_lines(parser_->request());
  keep_alive_ = parser_->keep_alive();
  chunked_ = parser_->is_http_1_1();
  if (is_beyond_limit_) {
    keep_alive_ = false;
    if (!Authorization::is_probe(path_)) return refuse_beyond_limit();
  }
  const bool complete = parser_->state() == HttpRequestParser::State::complete;
  if (context_.admission && !context_.cors.is_preflight(parser_->request())) {
    if (auto refusal = context_.admission(parser_->request())) {
      return refuse(std::move(*refusal), complete && keep_alive_);
    }
  }
  if (parser_->state() != HttpRequestParser::State::body) return;
  if (parser_->announced_bytes() + context_.buffered_bytes > context_.options.max_buffered_bytes) {
    return refuse({.status = 503, .message = "the server holds as many unfinished requests as it may"});
  }
  if (parser_->expects_continue()) write("HTTP/1.1 100 Continue\r\n\r\n");
}

// For when the current request is answered.
void Connection::keep(std::string_view bytes) {
  if (bytes.empty() || !keep_alive_) return;
  if (input_.size() + bytes.size() > kMaxPipelinedBytes) {
    return cut_off(fmt::format("sent more than {} bytes ahead of an answer", kMaxPipelinedBytes));
  }
  input_ += bytes;
  if (!charge(input_.size())) cut_off("sent requests ahead of an answer while the server holds too many");
}

// Counts what this connection holds. False when that is more than before and more than all may hold.
bool Connection::charge(uint64_t bytes) {
  const uint64_t growth = bytes - charged_;  // modulo 2^64
  const uint64_t all = context_.buffered_bytes.fetch_add(growth) + growth;
  const bool grew = bytes > charged_;
  charged_ = bytes;
  return !grew || all <= context_.options.max_buffered_bytes;
}

void Connection::begin_exchange() {
  read_timer_.cancel();
  phase_ = Phase::busy;
  ++serial_;
  ++context_.active_exchanges;
  if (request_id_.empty()) request_id_ = random_id("req-");
  ending_ = false;
  status_ = 0;
  started_ = std::chrono::steady_clock::now();
}

void Connection::dispatch() {
  HttpRequest request = parser_->take();
  note_bytes(request.body.size());
  request.holder = key_holder(request.keys);
  request.keys.clear();
  request.lease = std::make_shared<ByteLease>(context_.buffered_bytes, std::exchange(charged_, 0));
  parser_.reset();
  begin_exchange();
  const auto exchange = std::make_shared<ConnectionExchange>(shared_from_this(), serial_);
  if (context_.cors.is_preflight(request))
    exchange->respond({.status = 204});
  else
    context_.handler(std::move(request), exchange);
}

// Answers without the handler. A request that was not read to its end leaves a connection that cannot be used
// any further.
void Connection::refuse(HttpRefusal refusal, bool keep_alive) {
  if (!parser_ || !parser_->has_header()) {
    method_.assign(1, '?');
    path_ = method_;
    release(request_id_);
    release(cors_lines_);
  }
  parser_.reset();
  note_bytes(charged_);
  charge(0);
  begin_exchange();
  keep_alive_ = keep_alive;
  HttpResponse response;
  response.status = refusal.status;
  response.body = context_.error_body(refusal.status, refusal.message, path_);
  response.headers = std::move(refusal.headers);
  if (refusal.status == 503) response.headers.emplace_back("Retry-After", "1");
  respond(serial_, std::move(response));
}

// ---- answering

void Connection::respond(uint64_t serial, HttpResponse response) {
  if (!is_current(serial)) return;
  note_bytes(response.body.size());
  if (context_.draining) keep_alive_ = false;
  set_status(response.status);
  std::string head = response_head(response.status, request_id_) + cors_lines_;
  if (!response.body.empty()) head += fmt::format("Content-Type: {}\r\n", response.content_type);
  if (response.status != 204) head += fmt::format("Content-Length: {}\r\n", response.body.size());
  for (const auto& [name, value] : response.headers) head += fmt::format("{}: {}\r\n", name, value);
  head += connection_line(keep_alive_);
  ending_ = true;
  if (method_ != "HEAD") head += response.body;
  write(head);
}

void Connection::respond_in_parts(uint64_t serial, HttpResponse response, BodyParts parts) {
  if (!is_current(serial)) return;
  note_bytes(kLargeBody);
  if (context_.draining || !chunked_) keep_alive_ = false;
  set_status(response.status);
  std::string head = response_head(response.status, request_id_) + cors_lines_;
  head += fmt::format("Content-Type: {}\r\n", response.content_type);
  if (chunked_) head += "Transfer-Encoding: chunked\r\n";
  head += connection_line(keep_alive_);
  parts_ = std::move(parts);
  write(head);
}

void Connection::note_bytes(size_t bytes) {
  if (bytes >= kLargeBody) ++context_.large_bodies;
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
  std::string head = response_head(status_, request_id_) + cors_lines_;
  head +=
      "Content-Type: text/event-stream; charset=utf-8\r\n"
      "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n";
  if (chunked_) head += "Transfer-Encoding: chunked\r\n";
  head += connection_line(keep_alive_);
  write(head);
  last_frame_ = std::chrono::steady_clock::now();
  if (context_.options.ping_interval.count() > 0) ping_later(context_.options.ping_interval);
}

void Connection::send_event(uint64_t serial, std::string_view payload, std::string_view name) {
  if (!is_current(serial)) return;
  if (is_stalled()) return cut_off("does not read its stream");
  write_frame(sse_frame(payload, name));
}

void Connection::write_frame(std::string_view frame) {
  last_frame_ = std::chrono::steady_clock::now();
  write(chunked_ ? fmt::format("{:x}\r\n{}\r\n", frame.size(), frame) : std::string(frame));
}

void Connection::ping_later(std::chrono::milliseconds delay) {
  ping_timer_.emplace(socket_.get_executor(), delay);
  ping_timer_->async_wait([weak = weak_from_this(), serial = serial_](ErrorCode error) {
    const auto self = weak.lock();
    if (!error && self && self->is_current(serial)) self->on_ping_time();
  });
}

// Each event would set a timer; so the timer looks when the last event was.
void Connection::on_ping_time() {
  const std::chrono::milliseconds interval = context_.options.ping_interval;
  const auto silent =
      std::chrono::floor<std::chrono::milliseconds>(std::chrono::steady_clock::now() - last_frame_);
  if (silent < interval) return ping_later(interval - silent);
  if (queued_bytes() == 0) write_frame(sse_ping());  // else it is the client that takes nothing
  ping_later(interval);
}

void Connection::end_stream(uint64_t serial) {
  if (!is_current(serial)) return;
  ending_ = true;
  ping_timer_.reset();
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

void Connection::on_timeout(uint64_t serial, std::chrono::milliseconds delay,
                            std::function<void()> callback) {
  if (!is_current(serial)) return;
  answer_timer_.emplace(socket_.get_executor(), delay);
  answer_timer_->async_wait(
      [weak = weak_from_this(), serial, callback = std::move(callback)](ErrorCode error) {
        const auto self = weak.lock();
        if (!error && self && self->is_current(serial)) callback();
      });
}

// The answer has been written whole.
void Connection::end_exchange() {
  log_access(fmt::format("{}", status_));
  --context_.active_exchanges;
  gone_ = nullptr;
  answer_timer_.reset();
  ping_timer_.reset();
  overfull_ = false;
  release(path_);
  release(request_id_);
  release(cors_lines_);
  if (!keep_alive_) return linger();
  phase_ = Phase::idle;
  set_deadline(read_timer_, context_.options.idle_timeout);
  const std::string input = std::exchange(input_, {});
  charge(0);
  parse(input);
}

// ---- deadlines and the end

void Connection::set_deadline(asio::steady_timer& timer, std::chrono::milliseconds delay) {
  timer.expires_after(delay);
  timer.async_wait([weak = weak_from_this(), &timer](ErrorCode error) {
    const auto self = weak.lock();
    if (error || !self || self->phase_ == Phase::closed) return;
    if (timer.expiry() > std::chrono::steady_clock::now()) return;  // was set anew meanwhile
    &timer == &self->write_timer_ ? self->on_write_deadline() : self->on_read_deadline();
  });
}

void Connection::on_read_deadline() {
  if (is_beyond_limit_ && phase_ < Phase::busy) return refuse_beyond_limit();
  switch (phase_) {
    case Phase::header:
      return refuse({.status = 408, .message = "the request header did not arrive in time"});
    case Phase::body:
      return refuse({.status = 408, .message = "the request body did not arrive in time"});
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

// Closes with a reset, so that the system does not keep for the client what it does not take.
void Connection::cut_off(std::string_view why) {
  log::warn("{} {}; cutting it off", peer_, why);
  ErrorCode ignored;
  socket_.set_option(asio::socket_base::linger(true, 0), ignored);
  close();
}

void Connection::close() {
  const bool was_busy = phase_ == Phase::busy;
  parts_ = nullptr;
  phase_ = Phase::closed;
  ErrorCode ignored;
  parser_.reset();
  release(input_);
  charge(0);
  read_timer_.cancel();
  write_timer_.cancel();
  answer_timer_.reset();
  ping_timer_.reset();
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
  if (Authorization::is_probe(path)) {
    log::debug("{}", line);
  } else {
    log::info("{}", line);
  }
}

}  // namespace chorale::server
