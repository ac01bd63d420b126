#include "tools/bench_serve/load_run.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>

#include "base/error.h"

namespace chorale::bench_serve {
namespace {

using Json = nlohmann::json;

class LoadRun {
 public:
  LoadRun(HttpClient& client, std::span<const Request> requests, const LoadOptions& options)
      : client_(client), requests_(requests), options_(options) {
    CHORALE_CHECK(options.arrivals.size() == requests.size());
    result_.records.resize(requests.size());
  }

  LoadResult run() {
    start_ = Clock::now();
    arrive();
    client_.run();
    return std::move(result_);
  }

 private:
  Clock::time_point arrival(size_t index) const {
    return start_ + std::chrono::duration_cast<Clock::duration>(Seconds(options_.arrivals[index]));
  }

  // The requests that are due, and a timer for the next one.
  void arrive() {
    while (arrived_ < requests_.size() && arrival(arrived_) <= Clock::now()) {
      ++arrived_;
      send_waiting();
    }
    if (arrived_ < requests_.size()) client_.at(arrival(arrived_), [this] { arrive(); });
  }

  void send_waiting() {
    const int64_t most = options_.max_concurrency.value_or(std::numeric_limits<int64_t>::max());
    while (sent_ < arrived_ && in_flight_ < most) send(sent_++);
  }

  void send(size_t index) {
    result_.peak_concurrency = std::max(result_.peak_concurrency, ++in_flight_);
    HttpCall call;
    call.method = "POST";
    call.path = options_.form.endpoint == Endpoint::chat ? "/v1/chat/completions" : "/v1/completions";
    call.body = request_body(requests_[index], options_.form);
    const auto sent = Clock::now();
    const auto answer = std::make_shared<StreamAnswer>(options_.form.endpoint, sent, options_.keep_text);
    call.on_body = [answer](const BodyPart& part) { answer->read(part); };
    call.on_end = [this, answer, index, sent](const HttpEnd& end) {
      RequestRecord& record = result_.records[index];
      record = answer->finish(end);
      record.start = Seconds(sent - start_).count();
      finished();
    };
    client_.send(std::move(call));
  }

  void finished() {
    --in_flight_;
    result_.duration = Seconds(Clock::now() - start_).count();
    if (options_.on_finished) options_.on_finished();
    send_waiting();
  }

  HttpClient& client_;
  std::span<const Request> requests_;
  const LoadOptions& options_;
  Clock::time_point start_;
  size_t arrived_ = 0;  // so many requests have arrived
  size_t sent_ = 0;
  int64_t in_flight_ = 0;
  LoadResult result_;
};

}  // namespace

std::string request_body(const Request& request, const RequestForm& form) {
  Json body = {{"model", form.model},
               {"max_tokens", request.output_tokens},
               {"temperature", 0},
               {"stream", true},
               {"stream_options", {{"include_usage", true}}}};
  // Left out unless it is wanted: only some servers know it.
  if (form.ignore_eos) body["ignore_eos"] = true;
  const auto* text = std::get_if<std::string>(&request.prompt);
  if (form.endpoint == Endpoint::chat) {
    CHORALE_CHECK(text != nullptr, "a chat's prompt must be a text");
    body["messages"] = Json::array({{{"role", "user"}, {"content", *text}}});
  } else {
    body["prompt"] = text != nullptr ? Json(*text) : Json(std::get<std::vector<int32_t>>(request.prompt));
  }
  body.update(form.extra);
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

LoadResult run_load(HttpClient& client, std::span<const Request> requests, const LoadOptions& options) {
  return LoadRun(client, requests, options).run();
}

}  // namespace chorale::bench_serve
