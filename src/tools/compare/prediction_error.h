// How well predictions agree with what was measured.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tools/compare/compare.h"

namespace chorale::tools {

struct PredictionError {
  double median = 0;       // of the errors of output tokens per second, each over what was measured
  double worst = 0;        //
  double kendall_tau = 1;  // of the two rankings: 1: the same, -1: reversed
  double first_behind =
      0;  // by which part the strategy that is predicted best falls short of the one that is
};

// Nothing where fewer than two strategies have both.
std::optional<PredictionError> prediction_error(std::span<const Outcome> outcomes);

// Pairs in the same order less those in the other, over all pairs; equal ones count as neither. The same
// number of values, at least two.
double kendall_tau(std::span<const double> a, std::span<const double> b);

// A table of predicted beside measured, and what the error comes to; empty where nothing was predicted.
std::string prediction_table(std::span<const Outcome> outcomes);

}  // namespace chorale::tools
