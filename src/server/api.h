// The endpoints: which path and method does what, and how a request's fault becomes an HTTP answer.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "server/generation/answer.h"
#include "server/generation/live_requests.h"
#include "server/generation/request_context.h"
#include "server/http/exchange.h"
#include "server/http/work_queue.h"
#include "server/metrics/activity.h"
#include "server/metrics/expert_distribution.h"
#include "server/metrics/metrics.h"
#include "server/server.h"

namespace chorale::server {

// Thread-safe; outlives all exchanges it was given.
class Api {
 public:
  Api(const ServerOptions& options, const ServerModel& model);

  // Runs on the exchange's strand; does not throw.
  void handle(HttpRequest request, const std::shared_ptr<Exchange>& exchange);

  // From now on /health and new requests get 503.
  void set_draining() { draining_ = true; }
  // Drops requests that are not planned yet. Before the end of the connections that they came from.
  void stop_work() {
    work_.stop();
    compilation_.stop();
  }
  LiveRequests& live() { return live_; }
  const std::string& model_name() const { return context_.model_name; }
  Activity& activity() { return activity_; }
  Metrics& counts() { return metrics_; }

 private:
  // Throws BadRequest.
  void route(HttpRequest request, const std::shared_ptr<Exchange>& exchange);
  // On a thread of a work queue: `work` makes the function that answers on the exchange's strand, or none
  // where another one is to answer. What either throws becomes the answer.
  template <typename Work>
  void answer_from_work(const std::string& what, const std::shared_ptr<Exchange>& exchange, const Work& work);

  using Handler = void (Api::*)(const HttpRequest&, const std::shared_ptr<Exchange>&);  // throws BadRequest
  struct Route {
    std::string_view path;
    bool get, post;  // which methods it takes
    bool slow;       // takes time for a large request: not on a thread that serves connections
    Handler handle;
  };
  static const std::vector<Route>& routes();

  void generate(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  AnswerPlan plan(const HttpRequest& request);
  bool constrain(AnswerPlan& plan,
                 engine::ConstraintFactory (*make)(const OutputFormat&, const ServerModel&)) const;
  std::function<void()> start_of(const std::shared_ptr<AnswerPlan>& plan,
                                 const std::shared_ptr<Exchange>& exchange);
  void page(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void health(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void health_generate(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void metrics(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void openapi(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void models(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void get_model_info(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void get_server_info(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void tokens(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void abort_request(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void flush_cache(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void record_experts(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  // Unique in this process and, by its random part, most likely anywhere.
  std::string new_id(const char* prefix);

  RequestContext context_;
  Metrics metrics_;
  Activity activity_;
  // Shared with callbacks that the engine may still hold.
  struct ExpertLoad {
    explicit ExpertLoad(const parallel::ExpertPlacement* placement) : distribution(placement) {}
    ExpertDistribution distribution;
    std::mutex mutex;
    std::vector<int64_t> latest;  // for /metrics, which does not wait for the engine
  };
  std::shared_ptr<ExpertLoad> expert_load_;
  LiveRequests live_;
  AnswerServices services_;
  std::atomic<bool> draining_{false};
  std::atomic<uint32_t> next_id_{0};
  double health_check_timeout_seconds_;
  std::string id_base_;
  int64_t created_;
  // Last: their threads use everything above.
  WorkQueue compilation_;  // of grammars that are new
  WorkQueue work_;
};

}  // namespace chorale::server
