// Several ways of pruning one checkpoint, side by side: a table for the terminal, JSON for machines, a page.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/model_config.h"
#include "tools/machine.h"
#include "tools/prune/prune.h"

namespace chorale::tools {

// Parses METHOD:N (first, frequency, router, reap), average, fit, fit:WIDTH or fit:WIDTH:STEPS. Throws Error
// that names --variants.
PruneVariant parse_variant(std::string_view text);

// "frequency:12", "fit:512:600": what parse_variant takes.
std::string name_of(const PruneVariant& variant, const io::ModelConfig& config);

// What is compared when nothing is asked for: the methods with scores at three quarters, half and one of the
// experts, the mean, and fits as wide as one expert and as all that a token uses.
std::vector<PruneVariant> default_variants(const io::ModelConfig& config);

struct PruneReport {
  struct Row {
    PruneVariant variant;
    PruneResult result;
    double seconds = 0;
  };
  std::string version;  // Chorale's
  std::string date;
  Machine machine;
  std::string model;  // the folder's name
  io::ModelConfig config;
  std::string calibration;  // a file's name; empty: none
  std::string held_out;     // a file's name
  int64_t window = 0;
  std::vector<Row> rows;
  size_t num_variants = 0;  // that were asked for

  std::string verdict() const;  // "Best with one expert: ..."
};

// indent: -1 for one line.
std::string prune_report_json(const PruneReport& report, int indent);
std::string prune_report_table(const PruneReport& report);
std::string prune_report_html(const PruneReport& report);

}  // namespace chorale::tools
