// pruning.json: how a pruned checkpoint was made. The same pruning gives the same text: no times, no paths.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "tools/prune/expert_scores.h"
#include "tools/prune/selection.h"

namespace chorale::tools {

struct PruningRecord {
  struct Calibration {
    std::filesystem::path file;  // its name alone is recorded
    std::string sha256;          // the text's, see base/sha256.h
    int64_t tokens = 0;
    int64_t window = 0;
  };
  // Mean negative log-likelihood per token of a text that was not calibrated with.
  struct HeldOut {
    std::filesystem::path file;  // its name alone is recorded
    std::string sha256;
    int64_t tokens = 0;
    int64_t window = 0;
    double nll_before = 0;
    double nll_after = 0;
  };
  struct Fit {
    int64_t width = 0;
    int64_t steps = 0;
    std::vector<double> relative_errors;  // [layers] of the layer's output; empty, or 0 for a dense layer
  };

  std::string version;  // Chorale's
  PruneMethod::Kind method = PruneMethod::Kind::first;
  int64_t num_experts = 0;
  int64_t num_source_experts = 0;
  uint64_t seed = 0;
  std::optional<Calibration> calibration;
  std::optional<HeldOut> held_out;
  std::optional<Fit> fit;
  std::vector<ExpertScores> scores;  // [layers], or empty
  KeptExperts kept;                  // [layers], or empty when experts were merged
};

// The text of the file: fields in a fixed order, a line per layer. Values that are not finite are null.
std::string pruning_json(const PruningRecord& record);

// Writes it to `folder`/pruning.json. Throws Error that names the file.
void write_pruning_record(const PruningRecord& record, const std::filesystem::path& folder);

}  // namespace chorale::tools
