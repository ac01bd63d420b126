// Collects what an engine tells its listeners, from any thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "engine/engine.h"
#include "unit/engine/fake_runner.h"

namespace chorale::engine {

struct Record {
  Answer answer;
  std::optional<RequestError> error;
  std::optional<int32_t> matched_stop_token;
  int64_t num_prompt_tokens = 0;
  int64_t num_completion_tokens = 0;
  int64_t num_cached_tokens = 0;
  int num_events = 0;
  int serial = 0;  // of its listener
  bool done = false;
  bool listener_alive = true;
};

class Recorder {
 public:
  EventListener listener(const std::string& id) {
    int serial = 0;
    {
      const std::lock_guard lock(mutex_);
      serial = ++num_listeners_;
      records_[id] = {};
      records_[id].serial = serial;
    }
    // Destroyed with the listener; by then the id may belong to another one.
    std::shared_ptr<void> alive(nullptr, [this, id, serial](void*) {
      const std::lock_guard lock(mutex_);
      if (records_[id].serial == serial) records_[id].listener_alive = false;
    });
    return [this, id, alive](GenerationEvent event) { take(id, std::move(event)); };
  }

  Record get(const std::string& id) {
    const std::lock_guard lock(mutex_);
    return records_.at(id);
  }

  Record wait(const std::string& id) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(600), [&] { return records_.at(id).done; }))
        << id;
    return records_.at(id);
  }

  // At least n output tokens, or the end.
  void wait_tokens(const std::string& id, size_t n) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(600), [&] {
      return records_.at(id).done || records_.at(id).answer.tokens.size() >= n;
    })) << id;
  }

  // Ids in the order in which their first output token came.
  std::vector<std::string> order_of_first_tokens() {
    const std::lock_guard lock(mutex_);
    return first_tokens_;
  }

 private:
  void take(const std::string& id, GenerationEvent event) {
    const std::lock_guard lock(mutex_);
    Record& r = records_[id];
    EXPECT_FALSE(r.done) << "an event after the last one of " << id;
    EXPECT_TRUE(r.listener_alive);
    if (r.answer.tokens.empty() && !event.token_ids.empty()) first_tokens_.push_back(id);
    if (r.num_events > 0) {
      EXPECT_TRUE(event.prompt_logprobs.empty());
    }
    ++r.num_events;
    r.answer.tokens.insert(r.answer.tokens.end(), event.token_ids.begin(), event.token_ids.end());
    for (auto& x : event.logprobs) r.answer.logprobs.push_back(std::move(x));
    for (auto& x : event.prompt_logprobs) r.answer.prompt_logprobs.push_back(std::move(x));
    EXPECT_EQ(event.num_completion_tokens, static_cast<int64_t>(r.answer.tokens.size()));
    r.num_prompt_tokens = event.num_prompt_tokens;
    r.num_completion_tokens = event.num_completion_tokens;
    r.num_cached_tokens = event.num_cached_tokens;
    r.matched_stop_token = event.matched_stop_token;
    r.error = event.error;
    r.answer.finish = event.finish;
    r.done = event.finish != FinishReason::none;
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Record> records_;
  int num_listeners_ = 0;
  std::vector<std::string> first_tokens_;
};

inline bool equal(const std::vector<TokenLogprobs>& a, const std::vector<TokenLogprobs>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const TokenLogprobs& x, const TokenLogprobs& y) {
                      return x.logprob == y.logprob && x.top == y.top;
                    });
}

inline void expect_same(const Answer& actual, const Answer& expected, const std::string& what) {
  EXPECT_EQ(actual.finish, expected.finish) << what;
  EXPECT_EQ(actual.tokens, expected.tokens) << what;
  EXPECT_TRUE(equal(actual.logprobs, expected.logprobs)) << what;
  EXPECT_TRUE(equal(actual.prompt_logprobs, expected.prompt_logprobs)) << what;
}

}  // namespace chorale::engine
