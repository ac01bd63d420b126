// What simulations have shown, as text, JSON and HTML. Nothing of the machine that simulated, and no time of
// day, is in them: the same arguments give the same bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "parallel/strategy.h"
#include "tools/simulate/simulation.h"

namespace chorale::simulate {

struct Outcome {
  std::string strategy;  // as it was asked for
  parallel::Strategy sizes;
  int replicas = 0;
  int64_t kv_tokens_per_group = 0;
  std::string error;  // why it could not be simulated; then there is no result
  std::optional<SimulationResult> result;
};

struct SimulateReport {
  std::string version;  // this program's
  std::string model;
  std::string machine;  // that is simulated
  std::string workload;
  std::string arrivals;
  std::string router;
  std::optional<int64_t> max_concurrency;
  uint64_t seed = 0;
  std::vector<std::string> notes;
  std::vector<Outcome> outcomes;
};

// The block of results of each strategy, in the form of `bench serve`; of several, also a table.
std::string report_text(const SimulateReport& report);

// One object. "strategies" has one object for each, with the names of `bench serve` and what only a
// simulation knows; "windows" are in time.
std::string report_json(const SimulateReport& report, int indent);

// One page that needs nothing else, with charts.
std::string report_html(const SimulateReport& report);

// Has every strategy a result?
bool all_simulated(const SimulateReport& report);

// A share in percent; 0 of nothing.
double percent(double part, double whole);

}  // namespace chorale::simulate
