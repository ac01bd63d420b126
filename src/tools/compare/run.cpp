#include "tools/compare/run.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"

namespace chorale::tools {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// What the engine's thread tells. Shared with the listeners, which may outlive a run that was given up.
struct Run {
  const Clock::time_point start = Clock::now();
  std::mutex mutex;
  std::condition_variable ended;
  std::vector<ServedRequest> served;
  size_t num_ended = 0;

  void take(size_t index, engine::GenerationEvent event) {
    const std::lock_guard lock(mutex);
    ServedRequest& request = served[index];
    request.token_times.insert(request.token_times.end(), event.token_ids.size(), seconds_since(start));
    std::move(event.token_ids.begin(), event.token_ids.end(), std::back_inserter(request.answer.tokens));
    std::move(event.logprobs.begin(), event.logprobs.end(), std::back_inserter(request.answer.logprobs));
    if (event.finish == engine::FinishReason::none) return;
    request.answer.finish = event.finish;
    if (event.error) request.error = event.error->message;
    if (event.finish == engine::FinishReason::aborted) request.error = "it was aborted";
    ++num_ended;
    ended.notify_all();
  }
};

bool same_bits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

bool same_alternatives(const engine::TokenLogprobs& a, const engine::TokenLogprobs& b) {
  return std::equal(a.top.begin(), a.top.end(), b.top.begin(), b.top.end(), [](const auto& x, const auto& y) {
    return x.first == y.first && same_bits(x.second, y.second);
  });
}

std::optional<std::string> find_difference(const Answer& expected, const Answer& actual) {
  const size_t common = std::min(expected.tokens.size(), actual.tokens.size());
  for (size_t t = 0; t < common; ++t) {
    if (expected.tokens[t] != actual.tokens[t])
      return fmt::format("token {} is {} instead of {}", t + 1, actual.tokens[t], expected.tokens[t]);
    const engine::TokenLogprobs& wanted = expected.logprobs.at(t);
    const engine::TokenLogprobs& found = actual.logprobs.at(t);
    if (!same_bits(wanted.logprob, found.logprob))
      return fmt::format("the log probability of token {} is {} instead of {}", t + 1, found.logprob,
                         wanted.logprob);
    if (!same_alternatives(wanted, found))
      return fmt::format("the most likely alternatives to token {} or their log probabilities differ", t + 1);
  }
  if (expected.tokens.size() != actual.tokens.size())
    return fmt::format("{} tokens instead of {}", actual.tokens.size(), expected.tokens.size());
  if (expected.finish != actual.finish) return "it ended for another reason";
  return std::nullopt;
}

}  // namespace

std::vector<ServedRequest> run_requests(engine::Engine& engine,
                                        std::span<const engine::GenerationRequest> requests) {
  const auto run = std::make_shared<Run>();
  run->served.resize(requests.size());
  std::optional<RequestError> refused;
  size_t submitted = 0;
  for (; submitted < requests.size() && !refused; ++submitted) {
    {
      const std::lock_guard lock(run->mutex);
      run->served[submitted].submitted = seconds_since(run->start);
    }
    const auto listener = [run, submitted](engine::GenerationEvent event) {
      run->take(submitted, std::move(event));
    };
    refused = engine.submit(requests[submitted], listener);
  }
  const size_t accepted = refused ? submitted - 1 : submitted;
  std::unique_lock lock(run->mutex);
  run->ended.wait(lock, [&] { return run->num_ended == accepted; });
  // Where an engine has failed, its requests say why, and those that it refused then do not.
  for (const ServedRequest& request : run->served)
    if (request.error) throw Error(*request.error);
  if (refused) throw_error("request {} was refused: {}", submitted, refused->message);
  return std::move(run->served);
}

std::optional<std::string> find_difference(std::span<const Answer> expected, std::span<const Answer> actual) {
  CHORALE_CHECK(expected.size() == actual.size());
  for (size_t r = 0; r < expected.size(); ++r)
    if (const auto difference = find_difference(expected[r], actual[r]))
      return fmt::format("request {}: {}", r + 1, *difference);
  return std::nullopt;
}

}  // namespace chorale::tools
