// The way of a request from its body to its answer, on threads of its own: so a large one holds up no
// connection, and a grammar that takes long to compile no other request.
#pragma once

#include <functional>
#include <memory>

#include "server/generation/answer.h"
#include "server/generation/server_model.h"
#include "server/http/exchange.h"
#include "server/http/work_queue.h"
#include "server/wire/bad_request.h"

namespace chorale::server {

// Thread-safe. What the functions that it is given throw becomes the answer; `what` says
// how the request is called and told of errors. They must not refer to anything that stop() does not outlive.
class RequestWork {
 public:
  // num_threads: beside the one that compiles grammars.
  RequestWork(int num_threads, const AnswerServices& services, const ServerModel& model);

  // Answers with what `make` returns.
  void respond(RequestLabel what, std::shared_ptr<Exchange> exchange, std::function<HttpResponse()> make);
  // Answers with the text that `make` plans, once its output formats are compiled.
  void generate(RequestLabel what, std::shared_ptr<Exchange> exchange, std::function<AnswerPlan()> make);

  // Drops what has not begun and waits for what has. Before the end of the connections that it came from.
  void stop();

 private:
  using Answerer = std::function<void()>;  // runs on the exchange's strand

  // On a thread of a queue: `work` makes the function that answers, or none where another one is to answer.
  void answer(const RequestLabel& what, const std::shared_ptr<Exchange>& exchange,
              const std::function<Answerer()>& work) const;
  Answerer begin(const RequestLabel& what, const std::shared_ptr<Exchange>& exchange, AnswerPlan plan);
  Answerer start_of(const std::shared_ptr<AnswerPlan>& plan, const std::shared_ptr<Exchange>& exchange) const;
  // Gives every choice its constraint. False where one of them is not to be had.
  bool constrain(AnswerPlan& plan,
                 engine::ConstraintFactory (*make)(const OutputFormat&, const ServerModel&)) const;

  AnswerServices services_;
  ServerModel model_;
  // Last: their threads use everything above.
  WorkQueue compilation_;  // compiles grammars that are new
  WorkQueue work_;
};

}  // namespace chorale::server
