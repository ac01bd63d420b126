#include "server/http/http_server.h"

#include <csignal>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <fmt/format.h>

#include "base/error.h"
#include "base/file_limit.h"
#include "base/log.h"
#include "server/http/connection.h"

namespace chorale::server {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using ErrorCode = boost::system::error_code;

constexpr std::chrono::milliseconds kAcceptRetry{100};
// Connections beyond the limit that are told so; more are closed without a word.
constexpr int64_t kMaxTurnedAway = 64;
// Open files beside the connections: the checkpoint, the log, the event loop.
constexpr uint64_t kOtherFiles = 128;

void check_file_limit(int64_t max_connections) {
  const uint64_t files = raise_file_limit();
  if (files < static_cast<uint64_t>(max_connections) + kOtherFiles) {
    log::warn("this process may open {} files: fewer than --max-connections {} needs", files,
              max_connections);
  }
}

}  // namespace

struct HttpServer::Impl {
  Impl(const HttpOptions& options, HttpHandler handler, HttpErrorBody error_body, HttpAdmission admission)
      : io(std::max(1, options.io_threads)), acceptor(io), signals(io) {
    context.options = options;
    context.handler = std::move(handler);
    context.error_body = std::move(error_body);
    context.admission = std::move(admission);
    context.cors = CorsPolicy(options.cors_origins);
  }

  void accept() {
    acceptor.async_accept(asio::make_strand(io), [this](ErrorCode error, tcp::socket socket) {
      if (error == asio::error::operation_aborted || !acceptor.is_open()) return;
      if (error) {
        // Out of file descriptors, most likely: connections that end will free some.
        log::warn("cannot accept a connection: {}", error.message());
        owner->after(kAcceptRetry, [this] { accept(); });
        return;
      }
      if (context.connections < context.options.max_connections) {
        const auto connection = std::make_shared<Connection>(std::move(socket), context, context.connections);
        connection->post([connection] { connection->start(); });
      } else if (context.turned_away < kMaxTurnedAway) {
        const auto connection = std::make_shared<Connection>(std::move(socket), context, context.turned_away);
        connection->post([connection] { connection->turn_away(); });
      }
      accept();
    });
  }

  // Connections catch what their work throws.
  void serve() {
    while (!io.stopped()) {
      try {
        io.run();
      } catch (const std::exception& error) {
        log::error("while serving a connection: {}", error.what());
      }
    }
  }

  HttpServer* owner = nullptr;
  ConnectionContext context;
  asio::io_context io;
  tcp::acceptor acceptor;
  asio::signal_set signals;
  std::string url;
};

HttpServer::HttpServer(const HttpOptions& options, HttpHandler handler, HttpErrorBody error_body,
                       HttpAdmission admission)
    : impl_(
          std::make_unique<Impl>(options, std::move(handler), std::move(error_body), std::move(admission))) {
  impl_->owner = this;
}

HttpServer::~HttpServer() = default;

void HttpServer::listen() {
  const HttpOptions& options = impl_->context.options;
  if (options.port < 0 || options.port > 65535) {
    throw_error("--port: expected a number from 0 to 65535, found {}", options.port);
  }
  if (options.max_buffered_bytes < options.max_body_bytes) {
    throw_error("--max-buffered-bytes: expected at least --max-body-bytes {}, found {}",
                options.max_body_bytes, options.max_buffered_bytes);
  }
  check_file_limit(options.max_connections);
  ErrorCode error;
  tcp::resolver resolver(impl_->io);
  const auto found = resolver.resolve(options.host, std::to_string(options.port),
                                      tcp::resolver::passive | tcp::resolver::numeric_service, error);
  if (error || found.empty()) {
    throw_error("--host: cannot resolve \"{}\": {}", options.host, error ? error.message() : "no address");
  }
  const tcp::endpoint wanted = found.begin()->endpoint();
  tcp::acceptor& acceptor = impl_->acceptor;
  acceptor.open(wanted.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(wanted, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    ErrorCode ignored;
    acceptor.close(ignored);
    const bool is_port = error == asio::error::address_in_use || error == asio::error::access_denied;
    throw_error("--{}: cannot listen on {} port {}: {}", is_port ? "port" : "host", options.host,
                options.port, error.message());
  }
  const tcp::endpoint bound = acceptor.local_endpoint();
  const std::string address = bound.address().to_string();
  impl_->url = bound.address().is_v6() ? fmt::format("http://[{}]:{}", address, bound.port())
                                       : fmt::format("http://{}:{}", address, bound.port());
  if (options.api_keys.empty() && !bound.address().is_loopback()) {
    log::warn("everybody who reaches {} may use this server: there is no --api-key", impl_->url);
  }
  impl_->accept();
}

std::string HttpServer::url() const {
  return impl_->url;
}

void HttpServer::on_status(std::function<void(int)> callback) {
  impl_->context.on_status = std::move(callback);
}

void HttpServer::run() {
  std::vector<std::thread> threads;
  for (int i = 1; i < impl_->context.options.io_threads; ++i)
    threads.emplace_back([this] { impl_->serve(); });
  impl_->serve();
  for (std::thread& thread : threads) thread.join();
}

void HttpServer::on_signal(std::function<void()> callback) {
  impl_->signals.add(SIGINT);
  impl_->signals.add(SIGTERM);
  impl_->signals.async_wait([this, callback = std::move(callback)](ErrorCode error, int) {
    if (error) return;
    impl_->signals.clear();  // back to the default: the next signal ends the process
    callback();
  });
}

void HttpServer::after(std::chrono::milliseconds delay, std::function<void()> callback) {
  const auto timer = std::make_shared<asio::steady_timer>(impl_->io, delay);
  timer->async_wait([timer, callback = std::move(callback)](ErrorCode error) {
    if (!error) callback();
  });
}

void HttpServer::set_draining() {
  impl_->context.draining = true;
}

int64_t HttpServer::active_exchanges() const {
  return impl_->context.active_exchanges;
}

uint64_t HttpServer::large_bodies() const {
  return impl_->context.large_bodies;
}

void HttpServer::finish() {
  impl_->io.stop();
}

}  // namespace chorale::server
