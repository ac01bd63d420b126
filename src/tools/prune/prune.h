// Makes a model with fewer experts from any Qwen3-MoE checkpoint: chooses or makes the experts, writes the
// checkpoint, and says what it cost in likelihood. Streamed: one layer is in memory at a time, and with
// calibration the residual stream of its tokens.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/dtype.h"
#include "base/interruption.h"
#include "tools/prune/layer_fitter.h"
#include "tools/prune/selection.h"

namespace chorale::tools {

inline constexpr int64_t kScoreTokens = 32768;  // default of calibration_tokens, but for fit, which takes all

// What to make.
struct PruneVariant {
  PruneMethod method;
  std::optional<int64_t> num_experts;
  int64_t expert_width = 0;  // what fit makes; 0: moe_intermediate_size
  int64_t fit_steps = kFitSteps;
};

// From what, and how.
struct PruneOptions {
  std::filesystem::path model_path;
  std::filesystem::path calibration_file;     // empty: none
  std::optional<int64_t> calibration_tokens;  // at most; whole windows of them are used
  int64_t window = 512;
  std::filesystem::path heldout_file;  // empty: the likelihood is not measured
  int64_t heldout_windows = 24;        // 0: all
  FitLoss fit_loss = FitLoss::logits;
  uint64_t seed = 0;
  DType dtype = DType::f32;  // what is computed in
  InstructionSet isa = InstructionSet::portable;
  int threads = 1;
  bool show_progress = false;
  std::string version;                         // Chorale's, for pruning.json
  const Interruption* interruption = nullptr;  // polled, where given
};

struct PruneResult {
  int64_t num_experts = 0;
  int64_t width = 0;
  uint64_t weight_bytes = 0;
  int64_t calibration_tokens = 0;
  std::optional<double> nll_before, nll_after;  // nats per token of the held-out text
};

// One checkpoint, pruned once or in several ways; what the ways share (texts, scores, the likelihood before)
// is made once, when it is first needed. Not thread-safe. All throw Error that names the flag or file.
class Pruner {
 public:
  explicit Pruner(PruneOptions options);
  Pruner(const Pruner&) = delete;
  Pruner& operator=(const Pruner&) = delete;
  ~Pruner();

  const io::ModelConfig& config() const;

  // Refuses what can be refused before there is any work.
  void check(const PruneVariant& variant) const;

  // Writes the checkpoint, which appears whole or not at all. `force`: replace an existing one.
  PruneResult prune(const PruneVariant& variant, const std::filesystem::path& output, bool force);

  // The same, but the checkpoint is made in a temporary folder in `folder` and removed.
  PruneResult try_out(const PruneVariant& variant, const std::filesystem::path& folder);

 private:
  class Work;
  std::unique_ptr<Work> work_;
};

}  // namespace chorale::tools
