#include "engine/strategy_switch.h"

#include <chrono>
#include <exception>
#include <future>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/memory_info.h"
#include "parallel/strategy.h"

namespace chorale::engine {

StrategySwitch::StrategySwitch(LoadedModel& model, Engine& engine)
    : model_(model), engine_(engine), current_(parallel::to_string(model.info().parallel.strategy)) {}

StrategySwitch::~StrategySwitch() {
  if (thread_.joinable()) thread_.join();
}

std::string StrategySwitch::current() const {
  const std::lock_guard lock(mutex_);
  return current_;
}

bool StrategySwitch::start(std::string_view strategy, StrategyCallback callback) {
  const parallel::Strategy wanted = parallel::parse_strategy(strategy);
  const std::lock_guard lock(mutex_);
  if (is_busy_) return false;
  is_busy_ = true;
  if (thread_.joinable()) thread_.join();  // it has nothing left to do
  thread_ = std::thread([this, wanted, callback = std::move(callback)] {
    StrategyChange made = change(wanted);
    {
      const std::lock_guard done(mutex_);
      if (!made.result.error) current_ = parallel::to_string(wanted);
      made.strategy = current_;
      is_busy_ = false;
    }
    callback(made);
  });
  return true;
}

// The engine drops what it does not do, and a promise with it.
void StrategySwitch::between_steps(const std::function<void()>& work) {
  auto promise = std::make_shared<std::promise<void>>();
  std::future<void> done = promise->get_future();
  engine_.between_steps([work, promise = std::move(promise)] {
    work();
    promise->set_value();
  });
  try {
    done.get();
  } catch (const std::future_error&) {
    throw Error("the model runner has failed, or the server ends");
  }
}

StrategyChange StrategySwitch::change(const parallel::Strategy& strategy) {
  const std::string name = parallel::to_string(strategy);
  StrategyChange made;
  try {
    const auto start = std::chrono::steady_clock::now();
    const BetweenSteps between = [this](const std::function<void()>& work) { between_steps(work); };
    std::unique_ptr<PreparedRunner> prepared = model_.prepare(strategy, between);
    made.prepare_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    // The engine may still hold it when its value has been taken.
    const auto told = std::make_shared<std::promise<SwitchResult>>();
    engine_.switch_runner(*prepared->runner, prepared->max_total_tokens,
                          [told](const SwitchResult& result) { told->set_value(result); });
    made.result = told->get_future().get();
    if (made.result.error) {
      model_.drop(std::move(prepared), between);
    } else {
      model_.adopt(std::move(prepared));
    }
    return_free_memory();
  } catch (const std::exception& error) {
    made.result.error = error.what();
  }
  const SwitchResult& result = made.result;
  if (result.error) {
    log::warn("the strategy stays, {} is refused: {}", name, *result.error);
  } else {
    log::info(
        "strategy {}: made in {:.2f} s, then a pause of {:.1f} ms for {} of KV cache; {} requests went on, "
        "{} "
        "are computed again",
        name, made.prepare_seconds, result.pause_seconds * 1e3, format_bytes(result.moved_bytes),
        result.moved_sequences, result.recomputed_sequences);
  }
  return made;
}

}  // namespace chorale::engine
