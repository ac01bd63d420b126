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

RequestWork::RequestWork(int num_threads, size_t max_waiting, const AnswerServices& services,
                         const ServerModel& model)
    : services_(services),
      model_(model),
      compilation_(kCompilationThreads, kMaxCompilations),
      work_(num_threads, max_waiting) {}

void RequestWork::stop() {
  give_up();
  work_.stop();
  compilation_.stop();
}

void RequestWork::post(WorkRequest request, std::function<Answerer(const Task&)> work) {
  Task task{std::move(request.what), std::move(request.exchange), std::make_shared<std::atomic<bool>>(false)};
  const auto id = work_.post(
      request.bytes, [this, task, work = std::move(work)] { answer(task, [&] { return work(task); }); });
  if (!id) {
    throw BadRequest(ErrorAnswer{.status = 503, .message = "as many requests wait to be read as may"});
  }
  task.exchange->on_gone([this, id = *id, client_left = task.client_left] {
    *client_left = true;
    work_.drop(id);
  });
}

RequestWork::IsCancelled RequestWork::is_cancelled(const Task& task) const {
  return [this, client_left = task.client_left] { return giving_up_ || *client_left; };
}

void RequestWork::answer(const Task& task, const std::function<Answerer()>& work) const {
  if (*task.client_left) return;
  const std::shared_ptr<Exchange>& exchange = task.exchange;
  Answerer answer;
  try {
    if (giving_up_) throw BadRequest(ErrorAnswer{.status = 503, .message = "the server is stopping"});
    answer = work();
  } catch (...) {
    answer = [exchange, response = failure_response(task.what)] { exchange->respond(response); };
  }
  if (!answer) return;
  exchange->post([task, answer = std::move(answer)] {
    if (*task.client_left) return;
    try {
      answer();
    } catch (...) {
      task.exchange->respond(failure_response(task.what));
    }
  });
}

void RequestWork::respond(WorkRequest request, std::function<HttpResponse(const IsCancelled&)> make) {
  post(std::move(request), [this, make = std::move(make)](const Task& task) -> Answerer {
    return [exchange = task.exchange, response = make(is_cancelled(task))] { exchange->respond(response); };
  });
}

void RequestWork::generate(WorkRequest request, std::function<AnswerPlan(const IsCancelled&)> make) {
  post(std::move(request),
       [this, make = std::move(make)](const Task& task) { return begin(task, make(is_cancelled(task))); });
}

RequestWork::Answerer RequestWork::begin(const Task& task, AnswerPlan plan) {
  const auto made = std::make_shared<AnswerPlan>(std::move(plan));
  if (constrain(*made, &find_output_format)) return start_of(made, task.exchange);
  const auto waits = compilation_.post(0, [this, task, made] {
    answer(task, [&] {
      constrain(*made, &compile_output_format);
      return start_of(made, task.exchange);
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
