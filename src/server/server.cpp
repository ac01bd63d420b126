#include "server/server.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/memory_info.h"
#include "base/service_notify.h"
#include "server/api.h"
#include "server/http/authorization.h"
#include "server/http/http_server.h"
#include "server/routes.h"
#include "server/wire/error_answer.h"

namespace chorale::server {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kDrainPoll{20};
constexpr std::chrono::milliseconds kEngineCheck{100};
constexpr std::chrono::milliseconds kTick{1000};
constexpr std::chrono::milliseconds kShortestTick{10};
constexpr int kMemoryReturns = 30;         // ticks
constexpr double kFailedDrainSeconds = 1;  // for answers that are being written
// For telling clients, after the drain's time is over, that their requests were ended.
constexpr std::chrono::milliseconds kFarewell{2000};

}  // namespace

class Server::Impl {
 public:
  explicit Impl(const ServerOptions& options)
      : options_(options),
        authorization_(options.http.api_keys, options.http.admin_api_keys, &is_admin_door),
        http_(
            options.http,
            [this](HttpRequest request, const std::shared_ptr<Exchange>& exchange) {
              handle(std::move(request), exchange);
            },
            [](int status, std::string_view message, std::string_view path) {
              return to_text(
                  error_json({.status = status, .message = std::string(message)}, error_form_of(path)));
            },
            [this](const HttpRequest& request) { return authorization_.check(request); }) {
    http_.on_status([this](int status) {
      if (Api* api = ready_) api->counts().count_response(status);
    });
  }

  // run() has ended, or was never called; requests that are left belong to nobody.
  ~Impl() {
    if (serving_.joinable()) {
      http_.finish();
      serving_.join();
    }
    end();
  }

  void set_model(const ServerModel& model, const engine::StrategyController* controller) {
    engine_ = &model.engine;
    api_.emplace(options_, model, controller);
    ready_ = &*api_;
  }

  void listen() {
    if (http_.url().empty()) http_.listen();
  }

  void begin() {
    serving_ = std::thread([this] { http_.run(); });
  }

  void run() {
    CHORALE_CHECK(ready_ != nullptr, "a server without a model");
    listen();
    if (options_.handle_signals) http_.on_signal([this] { stop(); });
    log::info("Chorale is ready: {} (Ctrl-C stops)", url());
    log::flush();
    begin_ticks();
    notify_service("READY=1");
    watch_engine();
    if (!serving_.joinable()) begin();
    serving_.join();
    end();
    log::info("Chorale has stopped");
  }

  void stop() {
    if (stopping_.exchange(true)) return;
    notify_service("STOPPING=1");
    api_->set_draining();
    http_.set_draining();
    engine_->stop_accepting();
    log::info("Draining: {} requests in work, at most {} seconds", http_.active_exchanges(),
              options_.drain_timeout_seconds);
    const auto patience = std::chrono::duration<double>(options_.drain_timeout_seconds);
    const Clock::time_point deadline = Clock::now() + std::chrono::duration_cast<Clock::duration>(patience);
    http_.after(kDrainPoll, [this, deadline] { drain(deadline); });
  }

  std::string url() const { return http_.url(); }

 private:
  void handle(HttpRequest request, const std::shared_ptr<Exchange>& exchange) {
    if (Api* api = ready_) return api->handle(std::move(request), exchange);
    exchange->respond(error_response({.status = 503, .message = "the model is being loaded"}));
  }

  void begin_ticks() {
    const Clock::time_point now = Clock::now();
    if (options_.status_interval_seconds > 0) {
      const auto interval = static_cast<int64_t>(std::min(options_.status_interval_seconds, 1.0) * 1000);
      tick_ = std::clamp(std::chrono::milliseconds(interval), kShortestTick, kTick);
    }
    if (const auto limit = service_watchdog()) {
      watch_.emplace(*limit, now);
      tick_ =
          std::clamp(std::chrono::duration_cast<std::chrono::milliseconds>(*limit / 4), kShortestTick, tick_);
    }
    last_sample_ = last_status_ = now;
    const engine::EngineStats stats = engine_->stats();
    api_->activity().sample(stats, now);
    api_->activity().status_line(stats, now);
    http_.after(tick_, [this] { tick(); });
  }

  // Rates, the line of status, and the watchdog, which hears from here only while steps are done or nothing
  // is to be done.
  void tick() {
    const Clock::time_point now = Clock::now();
    const engine::EngineStats stats = engine_->stats();
    if (watch_ && watch_->goes_on(stats.running + stats.waiting > 0, stats.steps, now)) {
      notify_service("WATCHDOG=1");
    }
    if (now - last_sample_ >= kTick) {
      last_sample_ = now;
      return_memory();
      api_->activity().sample(stats, now);
    }
    const double interval = options_.status_interval_seconds;
    if (interval > 0 && std::chrono::duration<double>(now - last_status_).count() >= interval) {
      last_status_ = now;
      if (const auto line = api_->activity().status_line(stats, now)) log::info("{}", *line);
    }
    http_.after(tick_, [this] { tick(); });
  }

  // What large requests have taken. Also a while after the last one, whose work or answer takes its time.
  void return_memory() {
    const uint64_t large_bodies = http_.large_bodies();
    if (large_bodies != seen_large_bodies_) memory_returns_ = kMemoryReturns;
    seen_large_bodies_ = large_bodies;
    if (memory_returns_ == 0) return;
    --memory_returns_;
    return_free_memory();
  }

  // A model that has failed answers nothing any more: its requests have been told, and the server ends.
  void watch_engine() {
    if (stopping_) return;
    if (!engine_->stats().failed) return http_.after(kEngineCheck, [this] { watch_engine(); });
    options_.drain_timeout_seconds = std::min(options_.drain_timeout_seconds, kFailedDrainSeconds);
    stop();
  }

  void drain(Clock::time_point deadline) {
    if (http_.active_exchanges() == 0) return http_.finish();
    if (Clock::now() < deadline) return http_.after(kDrainPoll, [this, deadline] { drain(deadline); });
    log::warn("{} requests did not end in time; ending them", http_.active_exchanges());
    api_->give_up_work();
    for (const std::string& id : api_->live().ids()) engine_->abort(id);
    farewell(Clock::now() + kFarewell);
  }

  void farewell(Clock::time_point deadline) {
    if (http_.active_exchanges() == 0 || Clock::now() >= deadline) return http_.finish();
    http_.after(kDrainPoll, [this, deadline] { farewell(deadline); });
  }

  void end() {
    if (!api_) return;
    api_->stop_work();
    end_requests();
  }

  // The engine's listeners point into this object.
  void end_requests() {
    for (const std::string& id : api_->live().ids()) engine_->abort(id);
    api_->live().wait_empty();
  }

  ServerOptions options_;
  engine::Engine* engine_ = nullptr;  // the model's
  std::optional<Api> api_;
  std::atomic<Api*> ready_{nullptr};
  Authorization authorization_;
  HttpServer http_;
  std::thread serving_;
  std::atomic<bool> stopping_{false};

  // Of the ticks, which come one after the other.
  std::chrono::milliseconds tick_{kTick};
  std::optional<ProgressWatch> watch_;
  Clock::time_point last_sample_;
  Clock::time_point last_status_;
  uint64_t seen_large_bodies_ = 0;
  int memory_returns_ = 0;  // that are still to come
};

Server::Server(ServerOptions options) : impl_(std::make_unique<Impl>(options)) {}
Server::Server(ServerOptions options, ServerModel model) : Server(std::move(options)) {
  set_model(std::move(model));
}
Server::~Server() = default;
void Server::set_model(ServerModel model, const engine::StrategyController* controller) {
  impl_->set_model(model, controller);
}
void Server::begin() {
  impl_->begin();
}
void Server::listen() {
  impl_->listen();
}
std::string Server::url() const {
  return impl_->url();
}
void Server::run() {
  impl_->run();
}
void Server::stop() {
  impl_->stop();
}

}  // namespace chorale::server
