// The exchange of one request on a connection.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <utility>

#include "server/http/connection.h"
#include "server/http/exchange.h"

namespace chorale::server {

// Forwards to its connection, which outlives it.
class ConnectionExchange : public Exchange {
 public:
  ConnectionExchange(std::shared_ptr<Connection> connection, uint64_t serial)
      : connection_(std::move(connection)), serial_(serial) {}

  void post(std::function<void()> function) override { connection_->post(std::move(function)); }
  void respond(HttpResponse response) override { connection_->respond(serial_, std::move(response)); }
  void respond_in_parts(HttpResponse response, BodyParts parts) override {
    connection_->respond_in_parts(serial_, std::move(response), std::move(parts));
  }
  void begin_stream() override { connection_->begin_stream(serial_); }
  void send_event(std::string_view payload, std::string_view name) override {
    connection_->send_event(serial_, payload, name);
  }
  void end_stream() override { connection_->end_stream(serial_); }
  size_t queued_bytes() const override { return connection_->queued_bytes(); }
  void on_gone(std::function<void()> callback) override {
    connection_->on_gone(serial_, std::move(callback));
  }
  void on_timeout(std::chrono::milliseconds delay, std::function<void()> callback) override {
    connection_->on_timeout(serial_, delay, std::move(callback));
  }

 private:
  std::shared_ptr<Connection> connection_;
  uint64_t serial_;
};

}  // namespace chorale::server
