// The parts of a calibration. Each returns curves without sources.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "parallel/machine_profile.h"

namespace chorale::calibrate {

struct Effort {
  std::string instruction_set = "auto";
  int repeats = 5;            // of each figure, of which the median counts
  std::vector<int64_t> rows;  // at which products are measured
  std::vector<int> ranks;     // at which collectives and steps are
  uint64_t largest_read = 0;  // bytes
};

parallel::Curve measure_read_bandwidth(const Effort& effort);

// Products, sums of chunks, attention, work on rows and sampling.
void measure_ops(const Effort& effort, parallel::MachineProfile& machine);

// Of ops, steps and rows of the engine.
void measure_overheads(const Effort& effort, parallel::MachineProfile& machine);

parallel::CollectiveCosts measure_collectives(const Effort& effort);

double median_of(std::vector<double> values);

}  // namespace chorale::calibrate
