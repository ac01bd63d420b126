// The way of a request from its body to its answer, on threads of its own: so a large one holds up no
// connection, and a grammar that takes long to compile no other request.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "server/generation/answer.h"
#include "server/generation/server_model.h"
#include "server/http/exchange.h"
#include "server/http/work_queue.h"
#include "server/wire/bad_request.h"

namespace chorale::server {

// A request whose work is to be done.
struct WorkRequest {
  RequestLabel what;
  std::shared_ptr<Exchange> exchange;
  uint64_t bytes = 0;  // of its body, by which it finds its place in the queue
};

// Thread-safe. What the functions that it is given throw becomes the answer. They must not refer to anything
// that stop() does not outlive. They are not called, or asked to end, when the client leaves.
class RequestWork {
 public:
  using IsCancelled = std::function<bool()>;

  // num_threads: beside the one that compiles grammars; max_waiting: requests of which none has begun.
  RequestWork(int num_threads, size_t max_waiting, const AnswerServices& services, const ServerModel& model);

  // On the exchange's strand. Throws BadRequest where as many requests wait as may.
  // Answers with what `make` returns.
  void respond(WorkRequest request, std::function<HttpResponse(const IsCancelled&)> make);
  // Answers with the text that `make` plans, once its output formats are compiled.
  void generate(WorkRequest request, std::function<AnswerPlan(const IsCancelled&)> make);

  // What waits or is in work ends soon, and its clients are told that the server is stopping.
  void give_up() { giving_up_ = true; }

  // Drops what has not begun and waits for what has. Before the end of the connections that it came from.
  void stop();

 private:
  using Answerer = std::function<void()>;  // runs on the exchange's strand

  // A request in work.
  struct Task {
    RequestLabel what;
    std::shared_ptr<Exchange> exchange;
    std::shared_ptr<std::atomic<bool>> client_left;
  };

  void post(WorkRequest request, std::function<Answerer(const Task&)> work);
  // On a thread of a queue: `work` makes the function that answers, or none where another one is to answer.
  void answer(const Task& task, const std::function<Answerer()>& work) const;
  IsCancelled is_cancelled(const Task& task) const;
  Answerer begin(const Task& task, AnswerPlan plan);
  Answerer start_of(const std::shared_ptr<AnswerPlan>& plan, const std::shared_ptr<Exchange>& exchange) const;
  // Gives every choice its constraint. False where one of them is not to be had.
  bool constrain(AnswerPlan& plan,
                 engine::ConstraintFactory (*make)(const OutputFormat&, const ServerModel&)) const;

  AnswerServices services_;
  ServerModel model_;
  std::atomic<bool> giving_up_{false};
  // Last: their threads use everything above.
  WorkQueue compilation_;  // compiles grammars that are new
  WorkQueue work_;
};

}  // namespace chorale::server
