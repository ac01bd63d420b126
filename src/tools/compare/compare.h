// The same requests under different parallel strategies: whether the answers are the same bits, and what each
// strategy costs in time, memory and traffic.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "engine/loaded_model.h"
#include "parallel/machine_profile.h"
#include "parallel/prediction.h"
#include "tools/compare/configs.h"
#include "tools/compare/expert_balance.h"
#include "tools/compare/run.h"
#include "tools/compare/workload.h"
#include "tools/distribution.h"

namespace chorale::tools {

struct RankMemory {
  uint64_t weights = 0;   // bytes that the rank computes with; ranks of one process share them
  uint64_t kv_cache = 0;  // bytes, capacity
};

// What one run of the workload comes to, after a warm-up that is not counted.
struct Measurement {
  std::string dtype;
  std::string instruction_set;
  std::string device = "cpu";      // as --device names it
  std::string device_description;  // empty for the CPU
  int threads_per_rank = 0;
  double load_seconds = 0;
  double seconds = 0;  // from the first request's arrival to the last token

  std::optional<Distribution> first_token;  // seconds from arrival
  std::optional<Distribution> between;      // seconds from a request's token to its next; none for one token
  double prompt_rate = 0;                   // prompt tokens per second until the last request's first token
  double output_rate = 0;                   // new tokens per second of the whole run
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  // That went through the model: every token of a sequence but its last.
  int64_t computed_tokens = 0;
  uint64_t steps = 0;
  uint64_t preemptions = 0;

  uint64_t stored_weights = 0;                                       // bytes, in the process
  std::vector<RankMemory> ranks;                                     // [world]
  std::vector<std::array<uint64_t, comm::kNumPurposes>> sent_bytes;  // [world], by purpose
  std::array<uint64_t, comm::kNumPurposes> operations{};             // all ranks' together
  std::optional<Balance> balance;
  std::optional<parallel::Prediction> predicted;  // where CompareOptions has a machine

  RankMemory largest_rank() const;  // the most of each
  uint64_t bytes_for(comm::Purpose purpose) const;
  double bytes_per_token(comm::Purpose purpose) const;
};

// A row of the comparison: measured, or with an error.
struct Outcome {
  NamedStrategy strategy;
  std::string error;
  std::optional<Measurement> measured;
  bool is_reference = false;              // the first that ran: the others are compared with it
  std::optional<std::string> difference;  // from the reference; none when all bits are the same
};

struct CompareOptions {
  engine::LoadOptions load;  // its strategy, lengths and requests are set for each run
  // What the cost model predicts from, where set.
  std::optional<parallel::MachineProfile> machine;
  // Called before each strategy is loaded, where set.
  std::function<void(size_t index, const NamedStrategy& strategy)> on_start;
};

// Loads each strategy, runs the workload, and unloads it before the next. A strategy that is refused or fails
// gets a row with its error.
std::vector<Outcome> compare(const CompareOptions& options, std::span<const NamedStrategy> strategies,
                             const Workload& workload);

// Times from the requests, into the measurement.
void measure_times(std::span<const ServedRequest> served, Measurement& measured);

bool any_ran(std::span<const Outcome> outcomes);
// Whether all that ran gave the same bits; one alone does.
bool all_identical(std::span<const Outcome> outcomes);

}  // namespace chorale::tools
