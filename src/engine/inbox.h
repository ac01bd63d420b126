// The engine as other threads see it: they leave requests and commands here for the engine's thread, and read
// what it has published.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/clock.h"
#include "engine/engine.h"
#include "engine/outbox.h"
#include "engine/sequence.h"

namespace chorale::engine {

struct SwitchCommand {
  ModelRunner* next = nullptr;
  int64_t max_total_tokens = 0;
  SwitchCallback callback;
};

// What was asked for since the engine's thread last looked.
struct EngineCommands {
  std::vector<std::unique_ptr<Sequence>> submitted;  // in order of arrival
  std::vector<uint64_t> aborted;                     // by arrival, because an id may be taken again at once
  std::vector<std::function<void(std::vector<int64_t>)>> expert_load_callbacks;
  std::vector<RebalanceCallback> rebalance_callbacks;
  std::vector<SwitchCommand> switches;
  std::vector<std::function<void()>> works;
  bool flush_prefix_cache = false;
  bool stop = false;

  bool empty() const;
  void clear();  // keeps the room that the lists have
};

// Thread-safe.
class Inbox {
 public:
  // The options must outlive the inbox. `stats` is what stats() gives before anything was published.
  Inbox(const EngineOptions& options, const EngineStats& stats, Clock clock);

  // As the functions of Engine. submit() gives each sequence its arrival and its seed, when it takes them.
  std::optional<RequestError> submit(std::vector<std::unique_ptr<Sequence>> sequences);
  void abort(std::string_view id);
  void flush_prefix_cache();
  void get_expert_load(std::function<void(std::vector<int64_t>)> callback);
  void rebalance_experts(RebalanceCallback callback);
  void switch_runner(SwitchCommand command);
  void between_steps(std::function<void()> work);
  void stop_accepting();
  bool wait_idle(double timeout_seconds);
  EngineStats stats() const;
  // stop_accepting(), and the engine's thread is told to stop.
  void stop();

  // For the engine's thread:

  // Moves what was asked for into `commands`, which is empty. Before that it waits for something, so long at
  // most.
  void take(EngineCommands& commands, std::chrono::milliseconds longest_sleep);
  // What others can see is up to date before a listener hears of it: `stats`, in which `waiting` counts what
  // the engine's thread has taken, and that requests whose last event is among these are no longer live.
  void publish(EngineStats stats, std::span<const Outbox::Entry> events);
  // All that came of the commands was delivered.
  void set_idle();

 private:
  // Under mutex_.
  std::optional<RequestError> refuse(std::span<const std::unique_ptr<Sequence>> sequences) const;
  void enqueue(std::unique_ptr<Sequence> sequence);

  const EngineOptions& options_;
  const uint64_t entropy_;
  const Clock clock_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable idle_;
  EngineCommands commands_;
  // Id -> arrival, until the request's last event is about to be delivered.
  std::unordered_map<std::string, uint64_t> live_;
  uint64_t next_arrival_ = 0;
  bool accepting_ = true;
  bool busy_ =
      false;  // the engine's thread is between taking commands and having delivered what came of them
  EngineStats stats_;
};

}  // namespace chorale::engine
