// An answer apart from the HTTP server: who holds what, and for how long.
#include "server/generation/answer.h"

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "unit/server/server_fixture.h"

namespace chorale::server {
namespace {

class NoFormat : public AnswerFormat {
 public:
  Json whole(const std::vector<ChoiceState>&, LongLists&) const override { return {}; }
  void piece(const ChoiceState&, const TextPiece&, const Sink&) override {}
  void close(const std::vector<ChoiceState>&, const Sink&) const override {}
};

// As of a server that does not run any more: what is posted is never run. Its end takes a while.
class StoppedExchange : public Exchange {
 public:
  explicit StoppedExchange(std::atomic<bool>& destroyed) : destroyed_(destroyed) {}
  ~StoppedExchange() override {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    destroyed_ = true;
  }
  void post(std::function<void()>) override {}
  void respond(HttpResponse) override {}
  void respond_in_parts(HttpResponse, BodyParts) override {}
  void begin_stream() override {}
  void send_event(std::string_view, std::string_view) override {}
  void end_stream() override {}
  size_t queued_bytes() const override { return 0; }
  void on_gone(std::function<void()>) override {}
  void on_timeout(std::chrono::milliseconds, std::function<void()>) override {}

 private:
  std::atomic<bool>& destroyed_;
};

// A server waits for its live requests before it destroys what connections need.
TEST(Answer, IsLiveUntilTheEngineHasLetGoOfTheConnection) {
  std::atomic<bool> destroyed = false;
  ScriptedRunner runner(bundled_tokenizer().vocab_size());
  runner.step_microseconds = 1000;
  engine::EngineOptions options;
  options.max_total_tokens = 8192;
  options.max_context_len = 4096;
  engine::Engine engine(runner, options);
  Metrics metrics({.model_name = "tales"});
  LiveRequests live;
  AnswerBudget budget(1U << 20);

  AnswerPlan plan;
  plan.format = std::make_unique<NoFormat>();
  PlannedChoice& choice = plan.choices.emplace_back();
  choice.request.id = "one";
  choice.request.prompt_ids = {1, 2, 3};
  choice.request.sampling.max_new_tokens = 4000;
  Answer::start({engine, bundled_tokenizer(), metrics, live, budget}, std::move(plan),
                std::make_shared<StoppedExchange>(destroyed));
  EXPECT_FALSE(live.ids().empty());
  EXPECT_FALSE(destroyed);
  engine.abort("one");
  live.wait_empty();
  EXPECT_TRUE(destroyed);
}

}  // namespace
}  // namespace chorale::server
