#include "tools/bench_serve/http_client.h"

#include <array>
#include <cstdint>
#include <limits>
#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>

#include "base/error.h"

namespace chorale::bench_serve {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using ErrorCode = boost::system::error_code;
using Endpoints = tcp::resolver::results_type;

constexpr size_t kReadBytes = 16384;
constexpr size_t kMaxAnswerBytes = size_t{1} << 24;  // what ask() takes

http::request<http::string_body> make_request(const Url& url, const std::string& api_key, HttpCall& call) {
  http::request<http::string_body> request(http::string_to_verb(call.method), url.prefix + call.path, 11);
  request.set(http::field::host, url.authority());
  request.set(http::field::user_agent, "chorale-bench");
  request.set(http::field::accept, "*/*");
  if (!api_key.empty()) request.set(http::field::authorization, "Bearer " + api_key);
  if (!call.body.empty()) request.set(http::field::content_type, "application/json");
  request.body() = std::move(call.body);
  request.keep_alive(false);
  request.prepare_payload();
  return request;
}

// One request and its answer. Keeps itself alive through the handlers that it hands over.
class Conversation : public std::enable_shared_from_this<Conversation> {
 public:
  Conversation(asio::io_context& io, http::request<http::string_body> request, HttpCall call)
      : stream_(io), request_(std::move(request)), call_(std::move(call)) {
    parser_.body_limit(std::numeric_limits<uint64_t>::max());  // Boost 1.74 takes none for 0
  }

  void start(const Endpoints& endpoints, Seconds timeout) {
    stream_.expires_after(std::chrono::duration_cast<Clock::duration>(timeout));
    stream_.async_connect(endpoints, [self = shared_from_this()](ErrorCode error, const tcp::endpoint&) {
      if (error) return self->end(error);
      self->write();
    });
  }

 private:
  void write() {
    ErrorCode ignored;
    stream_.socket().set_option(tcp::no_delay(true), ignored);
    http::async_write(stream_, request_,
                      [self = shared_from_this()](ErrorCode error, size_t) { self->read_header(error); });
  }

  // Also after a failed write: a server may refuse a request before it has read all of it.
  void read_header(ErrorCode write_error) {
    http::async_read_header(stream_, buffer_, parser_,
                            [self = shared_from_this(), write_error](ErrorCode error, size_t) {
                              if (error) return self->end(write_error ? write_error : error);
                              self->read_body();
                            });
  }

  void read_body() {
    if (parser_.is_done()) return end({});
    parser_.get().body().data = bytes_.data();
    parser_.get().body().size = bytes_.size();
    http::async_read_some(stream_, buffer_, parser_, [self = shared_from_this()](ErrorCode error, size_t) {
      self->take_body(error == http::error::need_buffer ? ErrorCode() : error);
    });
  }

  void take_body(ErrorCode error) {
    const auto arrived = Clock::now();
    const size_t count = bytes_.size() - parser_.get().body().size;
    if (count > 0 && call_.on_body) call_.on_body({status(), {bytes_.data(), count}, arrived});
    if (error) return end(error);
    read_body();
  }

  int status() const { return static_cast<int>(parser_.get().result_int()); }

  void end(ErrorCode error) {
    ErrorCode ignored;
    stream_.socket().shutdown(tcp::socket::shutdown_both, ignored);
    stream_.close();
    HttpEnd end{.status = parser_.is_header_done() ? status() : 0, .error = {}};
    if (error == http::error::end_of_stream || error == http::error::partial_message) {
      end.error = "the connection was closed before the answer was complete";
    } else if (error == beast::error::timeout) {
      end.error = "the time limit was reached";
    } else if (error) {
      end.error = error.message();
    }
    if (call_.on_end) call_.on_end(end);
  }

  beast::tcp_stream stream_;
  http::request<http::string_body> request_;
  HttpCall call_;
  beast::flat_buffer buffer_;
  http::response_parser<http::buffer_body> parser_;
  std::array<char, kReadBytes> bytes_;
};

}  // namespace

struct HttpClient::Impl {
  Url url;
  std::string api_key;
  Seconds timeout;
  asio::io_context io{1};
  Endpoints endpoints;
};

HttpClient::HttpClient(const Url& url, std::string api_key, Seconds timeout)
    : impl_(std::make_unique<Impl>()) {
  impl_->url = url;
  impl_->api_key = std::move(api_key);
  impl_->timeout = timeout;
  ErrorCode error;
  impl_->endpoints = tcp::resolver(impl_->io).resolve(url.host, url.port, error);
  if (error) throw_error("{}: the host cannot be found: {}", url.text(), error.message());
}

HttpClient::~HttpClient() = default;

const Url& HttpClient::url() const {
  return impl_->url;
}

void HttpClient::send(HttpCall call) {
  auto request = make_request(impl_->url, impl_->api_key, call);
  std::make_shared<Conversation>(impl_->io, std::move(request), std::move(call))
      ->start(impl_->endpoints, impl_->timeout);
}

void HttpClient::at(Clock::time_point when, std::function<void()> function) {
  const auto timer = std::make_shared<asio::steady_timer>(impl_->io, when);
  timer->async_wait([timer, function = std::move(function)](ErrorCode) { function(); });
}

void HttpClient::run() {
  impl_->io.restart();
  impl_->io.run();
}

HttpAnswer ask(HttpClient& client, std::string method, std::string path) {
  HttpAnswer answer;
  client.send({.method = std::move(method),
               .path = std::move(path),
               .body = {},
               .on_body =
                   [&](const BodyPart& part) {
                     if (answer.body.size() + part.bytes.size() <= kMaxAnswerBytes) answer.body += part.bytes;
                   },
               .on_end = [&](const HttpEnd& end) { answer.end = end; }});
  client.run();
  return answer;
}

}  // namespace chorale::bench_serve
