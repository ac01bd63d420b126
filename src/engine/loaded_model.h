// From a checkpoint's folder to something that runs steps: configuration, memory plan, weights and KV cache.
#pragma once

#include <memory>

#include "base/device.h"
#include "engine/load_options.h"
#include "engine/model_info.h"
#include "engine/model_runner.h"
#include "engine/prepared_runner.h"
#include "io/model_config.h"
#include "model/weights.h"

namespace chorale::engine {

// How the weights are kept. Throws Error that names the flag.
model::WeightFormats choose_formats(const io::ModelConfig& config, const LoadOptions& options);

// Tokens of a KV block where the options say that the model is to run. Throws Error that names the flag.
int64_t block_tokens(const LoadOptions& options);

// Owns everything a running model needs. Movable, not copyable.
class LoadedModel {
 public:
  // Validates config and weights, prints the plan and the memory table (log lines), refuses what cannot fit,
  // then loads. Throws Error.
  static LoadedModel load(const LoadOptions& options);
  LoadedModel(LoadedModel&&) noexcept;
  LoadedModel& operator=(LoadedModel&&) noexcept;
  ~LoadedModel();

  // Whether requests enter at this process. Over MPI that is rank 0 alone; the others call serve_steps().
  bool is_driver() const;
  // On the other ranks: takes part in the steps of rank 0 until that stops, and returns the exit status. Ends
  // the process when a rank fails.
  int serve_steps();

  // Ranks for another strategy beside those that run; to be used in their place (Engine::switch_runner) and
  // then handed to adopt(), or else to drop(). Ranks of one process may become more or fewer; those that are
  // processes stay as many. Throws Error that says what does not fit: the strategy, or the memory for both.
  // May be called while steps run, on another thread than theirs; over MPI, where the processes speak between
  // steps, `between_steps` must be given, and whatever a process cannot make of its rank is an Error, too.
  std::unique_ptr<PreparedRunner> prepare(const parallel::Strategy& strategy,
                                          const BetweenSteps& between_steps = nullptr) const;
  // The ranks that ran before are destroyed. info() stays what it was.
  void adopt(std::unique_ptr<PreparedRunner> prepared);
  void drop(std::unique_ptr<PreparedRunner> prepared, const BetweenSteps& between_steps = nullptr);

  ModelRunner& runner();
  const ModelRunner& runner() const;
  const ModelInfo& info() const;
  Device device() const;  // lives as long as this

 private:
  struct Impl;
  explicit LoadedModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace chorale::engine
