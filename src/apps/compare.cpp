// chorale compare: the same requests under different parallel strategies.
#include "tools/compare/compare.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <unistd.h>

#include "apps/command.h"
#include "apps/report_files.h"
#include "apps/text_model.h"
#include "base/error.h"
#include "base/log.h"
#include "engine/machine_file.h"
#include "io/file_access.h"
#include "model/weight_shard.h"
#include "tools/compare/report.h"
#include "tools/compare/report_html.h"

namespace chorale::apps {
namespace {

constexpr uint64_t kMaxPromptBytes = uint64_t{1} << 30;

struct CompareFlags {
  engine::LoadOptions load;
  std::string config = "all";
  std::vector<std::string> strategies;
  int ranks = 8;
  std::string prompts;
  std::string workload = "random:64x128+64";
  int64_t max_new_tokens = 64;
  uint64_t seed = 0;
  std::string machine;
  std::string output;
  std::string version;
  std::string log_level = "warn";
  bool json = false;
};

std::vector<tools::NamedStrategy> choose_strategies(const CompareFlags& flags,
                                                    const io::ModelConfig& config) {
  if (flags.strategies.empty())
    return tools::strategies_of_config(flags.config, flags.ranks, model::sharded_sizes(config));
  std::vector<tools::NamedStrategy> chosen;
  for (const std::string& text : flags.strategies) chosen.push_back(tools::strategy_from_text(text));
  return chosen;
}

tools::Workload make_workload(const CompareFlags& flags, const io::ModelConfig& config) {
  const int64_t context = flags.load.context_length > 0
                              ? std::min(flags.load.context_length, config.max_position_embeddings)
                              : config.max_position_embeddings;
  if (flags.prompts.empty())
    return tools::make_random(tools::parse_random_workload(flags.workload), config.vocab_size, context,
                              flags.seed);
  const std::string source = "--prompts " + flags.prompts;
  const std::vector<tools::Prompt> prompts =
      tools::parse_prompts(io::read_text_file(flags.prompts, kMaxPromptBytes), source, flags.max_new_tokens);
  return tools::make_from_prompts(prompts, load_tokenizer(flags.load, config), source, context, flags.seed);
}

int run_compare(const CompareFlags& flags) {
  log::set_level(log::parse_level(flags.log_level));
  tools::CompareReport report;
  report.config = io::load_model_config(flags.load.model_path);
  report.config.max_tp_size = flags.load.parallel.max_tp_size;
  const std::vector<tools::NamedStrategy> strategies = choose_strategies(flags, report.config);
  const tools::Workload workload = make_workload(flags, report.config);
  make_report_folder("--output", flags.output);

  tools::CompareOptions options;
  options.load = flags.load;
  if (!flags.machine.empty()) options.machine = engine::load_machine(flags.machine);
  if (isatty(STDERR_FILENO) != 0) {
    options.on_start = [&](size_t index, const tools::NamedStrategy& strategy) {
      fmt::print(stderr, "{} of {}: {}\n", index + 1, strategies.size(), tools::label(strategy));
    };
  }
  report.version = flags.version;
  report.date = tools::utc_now();
  report.machine = tools::this_machine();
  report.model = folder_name(flags.load.model_path);
  report.is_dummy = flags.load.load_format == "dummy";
  report.workload = workload.description;
  report.requests = std::ssize(workload.requests);
  report.seed = flags.seed;
  report.outcomes = tools::compare(options, strategies, workload);

  const std::filesystem::path folder = flags.output;
  write_report_file(folder / "report.json", tools::report_json(report, 2) + "\n");
  write_report_file(folder / "report.html", tools::report_html(report));
  fmt::print("{}", flags.json ? tools::report_json(report, -1) + "\n" : tools::report_table(report));
  if (!flags.json) fmt::print("{}\n", log::escape((folder / "report.html").string()));
  return tools::any_ran(report.outcomes) && tools::all_identical(report.outcomes) ? 0 : 1;
}

void add_strategy_flags(CLI::App& app, CompareFlags& flags) {
  constexpr const char* kGroup = "Strategies";
  auto* config = app.add_option("--config", flags.config, "Which strategies: one, or several at once (all)")
                     ->option_text("simple|ep|tp|both|all")
                     ->check(CLI::IsMember({"simple", "ep", "tp", "both", "all"}))
                     ->group(kGroup);
  app.add_option("--ranks", flags.ranks, "Ranks of the strategies of --config, but for simple (8)")
      ->option_text("N")
      ->check(CLI::Range(1, parallel::kMaxWorld))
      ->group(kGroup);
  app.add_option("--strategy", flags.strategies,
                 "One strategy, instead of --config; may be given more than once: tp, dp, ep, moe_tp, moe_dp")
      ->option_text("tp=4,dp=2,ep=8")
      ->allow_extra_args(false)
      ->excludes(config)
      ->group(kGroup);
}

void add_workload_flags(CLI::App& app, CompareFlags& flags) {
  constexpr const char* kGroup = "Workload";
  auto* workload = app.add_option("--workload", flags.workload,
                                  "Requests x random prompt tokens + new tokens (random:64x128+64)")
                       ->option_text("random:RxP+N")
                       ->group(kGroup);
  app.add_option("--prompts", flags.prompts,
                 "A prompt per line, or a JSON object per line with \"prompt\" and \"max_tokens\"")
      ->option_text("FILE")
      ->excludes(workload)
      ->group(kGroup);
  app.add_option("--max-new-tokens", flags.max_new_tokens, "For --prompts, where a line does not say (64)")
      ->option_text("N")
      ->check(CLI::Range(1, 1 << 20))
      ->group(kGroup);
  app.add_option("--seed", flags.seed, "Of the random tokens and of the sampling (0)")
      ->option_text("S")
      ->group(kGroup);
}

}  // namespace

Command add_compare(CLI::App& root, const std::string& version) {
  auto flags = std::make_shared<CompareFlags>();
  flags->version = version;
  CLI::App* app = root.add_subcommand("compare", "Run the same requests under different parallel strategies");
  app->group(kOffline);
  add_strategy_flags(*app, *flags);
  add_workload_flags(*app, *flags);
  app->add_option("--output", flags->output, "Folder for report.json and report.html")
      ->option_text("DIR (required)")
      ->required()
      ->group("Output");
  app->add_option(
         "--machine", flags->machine,
         "This machine, as calibrate writes it: what the planner predicts is shown beside what is measured")
      ->option_text("FILE")
      ->group("Output");
  add_json_flag(*app, flags->json);
  add_log_level_flag(*app, flags->log_level)->group("Output");
  add_model_flags(*app, flags->load);
  add_execution_flags(*app, flags->load);
  add_chunk_flag(*app, flags->load)->group("Execution");
  app->add_option("--max-running-requests", flags->load.max_running_requests,
                  "Most requests computed together (256)")
      ->option_text("N")
      ->check(CLI::Range(1, 65536))
      ->group("Execution");
  add_parallel_flags(*app, flags->load);
  // Many strategies are run, in this process: --config and --strategy say which.
  for (const char* name :
       {"--tp-size", "--dp-size", "--ep-size", "--enable-ep-moe", "--moe-tp-size", "--moe-dp-size",
        "--single-expert-mode", "--enable-dp-attention", "--communicator"})
    app->remove_option(app->get_option(name));
  return {app, [flags] { return run_compare(*flags); }};
}

}  // namespace chorale::apps
