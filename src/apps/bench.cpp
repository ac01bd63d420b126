// chorale bench: how fast a model computes here, beside what the machine could do at most.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include "apps/command.h"
#include "apps/report_files.h"
#include "apps/settings.h"
#include "base/error.h"
#include "base/log.h"
#include "base/memory_info.h"
#include "base/op_profile.h"
#include "kernels/backend.h"
#include "parallel/strategy.h"
#include "tools/bench/model_bench.h"
#include "tools/bench/model_bench_report.h"
#include "tools/bench/presets.h"

namespace chorale::apps {
namespace {

struct BenchFlags {
  engine::LoadOptions load;
  bench::ModelBenchOptions bench;
  std::string preset;
  bool profile = false;
  std::string trace_file;
  bool json = false;
  bool markdown = false;
  std::string log_level = "warn";
};

void choose_model(BenchFlags& flags) {
  if (flags.preset.empty() == flags.load.model_path.empty()) {
    throw UsageError(fmt::format("expected either --model-path or --preset, found {}",
                                 flags.preset.empty() ? "neither" : "both"));
  }
  if (flags.preset.empty()) return;
  flags.load.config = bench::preset(flags.preset);
  flags.load.load_format = "dummy";
}

void print(const bench::ModelBenchReport& report, const BenchFlags& flags) {
  const auto form = flags.markdown ? bench::TableForm::markdown : bench::TableForm::text;
  if (flags.json) {
    fmt::print("{}\n", bench::to_json(report));
  } else {
    fmt::print("{}", bench::to_table(report, form));
    if (flags.profile) fmt::print("{}", bench::profile_tables(report, form));
  }
}

int run_bench(BenchFlags& flags, const std::string& version) {
  log::set_level(log::parse_level(flags.log_level));
  choose_model(flags);
  if (!flags.trace_file.empty()) check_report_file("--trace", flags.trace_file);
  bench::make_room(flags.bench, flags.load);
  OpProfile profile;
  const bool profiles = flags.profile || !flags.trace_file.empty();
  if (profiles) flags.load.profile = &profile;
  const bool terminal = isatty(STDERR_FILENO) != 0;
  flags.load.show_progress = terminal;

  const auto start = std::chrono::steady_clock::now();
  engine::LoadedModel model = engine::LoadedModel::load(flags.load);
  const std::chrono::duration<double> load_time = std::chrono::steady_clock::now() - start;
  if (!model.is_driver()) return model.serve_steps();
  if (terminal) flags.bench.on_progress = [](const std::string& what) { fmt::print(stderr, "{}\n", what); };

  const engine::ModelInfo& info = model.info();
  const parallel::Strategy& strategy = info.parallel.strategy;
  bench::ModelBenchReport report{
      .version = version,
      .model = flags.preset.empty() ? flags.load.model_path.string() : flags.preset,
      .device = info.device,
      .device_description = info.device_description,
      .dtype = info.dtype_name(),
      .quantization = info.quantization_name(),
      .kv_cache_dtype = std::string(name_of(info.kv_dtype)),
      .instruction_set = info.instruction_set_name(),
      .strategy = strategy.world() > 1 ? parallel::to_string(strategy) : "",
      .threads = info.num_threads,
      .machine = tools::this_machine(),
      .load_seconds = load_time.count(),
      .weight_bytes = info.weight_bytes,
      .peak_memory = peak_resident_memory(),
      .results = {}};
  report.results = bench::run_model_bench(model, flags.bench, profiles ? &profile : nullptr);
  print(report, flags);
  if (!flags.trace_file.empty()) write_report_file(flags.trace_file, bench::to_chrome_trace(report));
  return 0;
}

}  // namespace

Command add_bench(CLI::App& root, const std::string& version) {
  auto flags = std::make_shared<BenchFlags>();
  CLI::App* app = root.add_subcommand(
      "bench", "Measure a model's speed beside this machine's ceilings; bench serve: a server's");
  app->group(kOffline);
  add_config_flag(*app);
  add_model_flags(*app, flags->load, ModelArgument::optional);
  app->add_option("--preset", flags->preset,
                  fmt::format("A model's shape with random weights, in place of --model-path: {}",
                              fmt::join(bench::preset_names(), ", ")))
      ->option_text("NAME")
      ->check(CLI::IsMember(bench::preset_names()))
      ->group("Model");
  app->add_option("--prompt", flags->bench.prompt_tokens,
                  "Tokens of the prompt, and cached ones of a decode (512)")
      ->option_text("N")
      ->check(CLI::Range(1, 32768))
      ->group("Work");
  app->add_option("--prompts", flags->bench.prompts, "Prompts of one prefill step (1)")
      ->option_text("N")
      ->check(CLI::Range(1, 1024))
      ->group("Work");
  app->add_option("--decode", flags->bench.decode_tokens, "Decode steps of each batch size (64)")
      ->option_text("N")
      ->check(CLI::Range(1, 32768))
      ->group("Work");
  app->add_option("--batch", flags->bench.batches, "Sequences that decode together (1,4,16,32)")
      ->option_text("N,N,...")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->group("Work");
  app->add_option("--repeats", flags->bench.repeats, "Prefills, of which the median counts (5)")
      ->option_text("N")
      ->check(CLI::Range(1, 1000))
      ->group("Work");
  app->add_flag("--profile", flags->profile, "Also tell where the time of a step goes, op by op")
      ->group("Output");
  app->add_option("--trace", flags->trace_file, "Write the ops of a step for chrome://tracing or Perfetto")
      ->option_text("FILE")
      ->group("Output");
  CLI::Option* json = add_json_flag(*app, flags->json);
  app->add_flag("--markdown", flags->markdown, "Print tables in Markdown")->excludes(json)->group("Output");
  add_execution_flags(*app, flags->load);
  add_parallel_flags(*app, flags->load);
  add_log_level_flag(*app, flags->log_level)->group("Output");
  const Command serve = add_bench_serve(*app, version);
  return {app,
          [flags, version, serve] { return serve.app->parsed() ? serve.run() : run_bench(*flags, version); }};
}

}  // namespace chorale::apps
