// What a comparison tells: a table for the terminal, JSON for machines. The page is in compare/report_html.h.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "io/model_config.h"
#include "tools/compare/compare.h"
#include "tools/machine.h"

namespace chorale::tools {

struct CompareReport {
  std::string version;  // Chorale's
  std::string date;
  Machine machine;
  std::string model;  // the folder's name
  io::ModelConfig config;
  bool is_dummy = false;  // random weights
  std::string workload;
  int64_t requests = 0;
  uint64_t seed = 0;
  std::vector<Outcome> outcomes;

  // What was measured of the first strategy that ran; null when none did.
  const Measurement* reference() const;
  // "All 8 strategies gave the same bits: ...", or what went wrong.
  std::string verdict() const;
};

// The purposes that a model's data moves for, in the order in which they are shown.
inline constexpr comm::Purpose kShownPurposes[] = {comm::Purpose::attention, comm::Purpose::dispatch,
                                                   comm::Purpose::combine, comm::Purpose::logits};

// indent: -1 for one line.
std::string report_json(const CompareReport& report, int indent);

// At most kTableColumns wide.
inline constexpr size_t kTableColumns = 140;
std::string report_table(const CompareReport& report);

// The cells of the table, which the page shows too: a title and a group for each column, and a line of cells
// for each strategy that ran.
struct Column {
  std::string_view group;  // equal neighbours are one
  std::string_view title;
};
std::span<const Column> table_columns();
std::vector<std::string> table_cells(const Outcome& outcome);

// What the columns mean, in sentences.
std::vector<std::string> table_notes(const CompareReport& report);

}  // namespace chorale::tools
