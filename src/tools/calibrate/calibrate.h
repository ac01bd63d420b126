// Measures this machine for the planner: small models of random weights are run through the engine's own ops
// with a profile, and the collectives between threads by themselves. The CPU's alone.
#pragma once

#include <functional>
#include <string>

#include "parallel/machine_profile.h"

namespace chorale::calibrate {

struct CalibrateOptions {
  bool quick = false;  // fewer points and repeats: a second or two in place of some ten
  std::string instruction_set = "auto";
  std::function<void(const std::string&)> on_progress;  // what is measured next, where set
};

// Every figure's source says that it was measured, when and by which instruction set. Other load of the
// machine shows in the figures.
parallel::MachineProfile calibrate(const CalibrateOptions& options);

}  // namespace chorale::calibrate
