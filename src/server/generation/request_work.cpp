#include "server/generation/request_work.h"

#include <utility>

#include "server/generation/structured_output.h"
#include "server/wire/bad_request.h"

namespace chorale::server {
namespace {

// Of grammars, each of which may take a second: so they take no more than one core, and only those who ask
// for them wait. The queue is bounded by what a client may be expected to wait for.
constexpr int kCompilationThreads = 1;
constexpr size_t kMaxCompilations = 256;

}  // namespace

RequestWork::RequestWork(int num_threads, const AnswerServices& services, const ServerModel& model)
    : services_(services),
      model_(model),
      compilation_(kCompilationThreads, kMaxCompilations),
      work_(num_threads) {}

void RequestWork::stop() {
  work_.stop();
  compilation_.stop();
}

void RequestWork::answer(const RequestLabel& what, const std::shared_ptr<Exchange>& exchange,
                         const std::function<Answerer()>& work) const {
  Answerer answer;
  try {
    answer = work();
  } catch (...) {
    answer = [exchange, response = failure_response(what)] { exchange->respond(response); };
  }
  if (!answer) return;
  exchange->post([exchange, what, answer = std::move(answer)] {
    try {
      answer();
    } catch (...) {
      exchange->respond(failure_response(what));
    }
  });
}

void RequestWork::respond(RequestLabel what, std::shared_ptr<Exchange> exchange,
                          std::function<HttpResponse()> make) {
  work_.post([this, what = std::move(what), exchange = std::move(exchange), make = std::move(make)] {
    answer(what, exchange,
           [&]() -> Answerer { return [exchange, response = make()] { exchange->respond(response); }; });
  });
}

void RequestWork::generate(RequestLabel what, std::shared_ptr<Exchange> exchange,
                           std::function<AnswerPlan()> make) {
  work_.post([this, what = std::move(what), exchange = std::move(exchange), make = std::move(make)] {
    answer(what, exchange, [&] { return begin(what, exchange, make()); });
  });
}

RequestWork::Answerer RequestWork::begin(const RequestLabel& what, const std::shared_ptr<Exchange>& exchange,
                                         AnswerPlan plan) {
  const auto made = std::make_shared<AnswerPlan>(std::move(plan));
  if (constrain(*made, &find_output_format)) return start_of(made, exchange);
  const bool waits = compilation_.post([this, what, made, exchange] {
    answer(what, exchange, [&] {
      constrain(*made, &compile_output_format);
      return start_of(made, exchange);
    });
  });
  if (!waits)
    throw BadRequest(ErrorAnswer{.status = 503, .message = "too many grammars wait to be compiled"});
  return nullptr;
}

RequestWork::Answerer RequestWork::start_of(const std::shared_ptr<AnswerPlan>& plan,
                                            const std::shared_ptr<Exchange>& exchange) const {
  for (PlannedChoice& choice : plan->choices) {
    if (!choice.rules) continue;
    engine::GenerationRequest& request = choice.request;
    request.constraint_ends = request.constraint != nullptr;
    request.constraint = with_rules(choice.rules, std::move(request.constraint));
  }
  return [services = services_, plan, exchange] { Answer::start(services, std::move(*plan), exchange); };
}

bool RequestWork::constrain(AnswerPlan& plan, engine::ConstraintFactory (*make)(const OutputFormat&,
                                                                                const ServerModel&)) const {
  const OutputFormat* last = nullptr;  // several choices follow one
  engine::ConstraintFactory factory;
  for (PlannedChoice& choice : plan.choices) {
    if (choice.output_format == nullptr) continue;
    if (choice.output_format.get() != last) factory = make(*choice.output_format, model_);
    if (!factory) return false;
    last = choice.output_format.get();
    choice.request.constraint = factory;
  }
  return true;
}

}  // namespace chorale::server
