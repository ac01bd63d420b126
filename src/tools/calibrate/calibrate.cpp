#include "tools/calibrate/calibrate.h"

#include <fmt/format.h>

#include "base/instruction_set.h"
#include "base/memory_info.h"
#include "base/thread_pool.h"
#include "tools/calibrate/measure.h"
#include "tools/machine.h"

namespace chorale::calibrate {
namespace {

// Seconds that the engine's own thread takes for a row of logits: its choice, its event, its place in the
// next plan. Too small beside a step to be told apart from it here, so it stands as a figure of
// bench/engine_bench.
constexpr double kRowSeconds = 1.5e-6;

Effort effort_of(const CalibrateOptions& options) {
  Effort effort;
  effort.instruction_set = options.instruction_set;
  if (options.quick) {
    effort.repeats = 3;
    effort.rows = {1, 4, 16, 64, 256};
    effort.ranks = {1, 2, 8};
    effort.largest_read = uint64_t{64} << 20;
  } else {
    effort.repeats = 9;
    effort.rows = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512};
    effort.ranks = {1, 2, 4, 8, 16};
    effort.largest_read = uint64_t{256} << 20;
  }
  return effort;
}

void set_sources(const std::string& source, parallel::MachineProfile& machine) {
  for (const auto& [name, curve] : parallel::named_curves(machine))
    if (curve->source.empty()) curve->source = source;
}

}  // namespace

parallel::MachineProfile calibrate(const CalibrateOptions& options) {
  const auto tell = [&](const char* what) {
    if (options.on_progress) options.on_progress(what);
  };
  const Effort effort = effort_of(options);
  const tools::Machine here = tools::this_machine();
  parallel::MachineProfile machine;
  machine.instruction_set = name_of(select_instruction_set(options.instruction_set));
  machine.name = fmt::format("{}, {} cores, {}", here.processor, here.cores, machine.instruction_set);
  machine.cores = here.cores;
  machine.memory = here.memory;
  tell("memory");
  machine.read_bandwidth = measure_read_bandwidth(effort);
  tell("ops");
  measure_ops(effort, machine);
  tell("overheads");
  measure_overheads(effort, machine);
  machine.row_overhead = {{{1, kRowSeconds}}, "bench/engine_bench, not measured by calibrate"};
  tell("collectives");
  machine.within = measure_collectives(effort);
  set_sources(
      fmt::format("measured by chorale calibrate{}, {}", options.quick ? " --quick" : "", tools::utc_now()),
      machine);
  parallel::check_profile(machine);
  return machine;
}

}  // namespace chorale::calibrate
