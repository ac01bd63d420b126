// chorale calibrate: measures this machine for the planner.
#include "tools/calibrate/calibrate.h"

#include <cstdio>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <unistd.h>

#include "apps/command.h"
#include "apps/report_files.h"
#include "base/log.h"
#include "engine/machine_file.h"

namespace chorale::apps {
namespace {

struct CalibrateFlags {
  calibrate::CalibrateOptions options;
  std::string output;
  std::string log_level = "warn";
};

int run_calibrate(CalibrateFlags& flags) {
  log::set_level(log::parse_level(flags.log_level));
  check_report_file("--output", flags.output);
  if (isatty(STDERR_FILENO) != 0)
    flags.options.on_progress = [](const std::string& what) { fmt::print(stderr, "{}\n", what); };
  const parallel::MachineProfile machine = calibrate::calibrate(flags.options);
  write_report_file(flags.output, engine::machine_to_json(machine));
  fmt::print("{}: {}\n", log::escape(flags.output), machine.name);
  return 0;
}

}  // namespace

Command add_calibrate(CLI::App& root) {
  auto flags = std::make_shared<CalibrateFlags>();
  CLI::App* app = root.add_subcommand("calibrate", "Measure this machine, for plan --recommend");
  app->group(kOffline);
  app->add_option("--output", flags->output, "The machine's file")
      ->option_text("FILE (required)")
      ->required()
      ->group("Output");
  app->add_flag("--quick", flags->options.quick, "Fewer figures, in a second or two")->group("Execution");
  app->add_option("--instruction-set", flags->options.instruction_set,
                  "Vector instructions; auto: the most capable set there is")
      ->option_text("auto|avx512_bf16|avx512|avx2|portable")
      ->check(CLI::IsMember({"auto", "avx512_bf16", "avx512", "avx2", "portable"}))
      ->group("Execution");
  add_log_level_flag(*app, flags->log_level)->group("Output");
  return {app, [flags] { return run_calibrate(*flags); }};
}

}  // namespace chorale::apps
