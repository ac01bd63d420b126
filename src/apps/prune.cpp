// chorale prune: fewer experts, down to one.
#include "tools/prune/prune.h"

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "apps/command.h"
#include "apps/interrupt.h"
#include "apps/report_files.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "tools/prune/prune_report.h"

namespace chorale::apps {
namespace {

struct PruneFlags {
  tools::PruneOptions options;
  tools::PruneVariant variant;
  std::filesystem::path output;
  bool force = false;
  std::filesystem::path report;
  std::vector<std::string> variants;
  std::string method = "reap";
  std::string dtype = "float32";
  std::string instruction_set = "auto";
  std::string fit_loss = "logits";
  int threads = 0;
  std::string log_level = "info";
  bool json = false;
};

DType parse_dtype(const std::string& name) {
  if (name == "float32") return DType::f32;
  if (name == "bfloat16") return DType::bf16;
  throw_error("--dtype: expected float32 or bfloat16, found \"{}\"", name);
}

std::string describe(const std::optional<double>& value) {
  return value ? fmt::format("{:.5f}", *value) : "not measured";
}

void print_result(const PruneFlags& flags, const tools::PruneResult& result) {
  if (flags.json) {
    const auto number = [](const std::optional<double>& value) {
      return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
    };
    const nlohmann::ordered_json json = {
        {"output", flags.output.string()},         {"method", tools::name_of(flags.variant.method.kind)},
        {"num_experts", result.num_experts},       {"moe_intermediate_size", result.width},
        {"weight_bytes", result.weight_bytes},     {"calibration_tokens", result.calibration_tokens},
        {"nll_before", number(result.nll_before)}, {"nll_after", number(result.nll_after)}};
    fmt::print("{}\n", json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    return;
  }
  fmt::print("{}: {} expert{} per layer of width {}, {:.1f} MB of weights\n",
             log::escape(flags.output.string()), result.num_experts, result.num_experts == 1 ? "" : "s",
             result.width, static_cast<double>(result.weight_bytes) / 1e6);
  fmt::print("held-out negative log-likelihood, nats per token: {} before, {} after\n",
             describe(result.nll_before), describe(result.nll_after));
}

void run_report(const PruneFlags& flags, tools::Pruner& pruner) {
  if (flags.options.heldout_file.empty()) throw_error("--report: --heldout-file is required");
  std::vector<tools::PruneVariant> variants;
  for (const std::string& text : flags.variants) variants.push_back(tools::parse_variant(text));
  if (variants.empty()) variants = tools::default_variants(pruner.config());
  for (const tools::PruneVariant& variant : variants) pruner.check(variant);

  make_report_folder("--report", flags.report);
  tools::PruneReport report{.version = flags.options.version,
                            .date = tools::utc_now(),
                            .machine = tools::this_machine(),
                            .model = folder_name(flags.options.model_path),
                            .config = pruner.config(),
                            .calibration = flags.options.calibration_file.filename().string(),
                            .held_out = flags.options.heldout_file.filename().string(),
                            .window = flags.options.window,
                            .rows = {},
                            .num_variants = variants.size()};
  for (const tools::PruneVariant& variant : variants) {
    if (flags.options.show_progress) {
      fmt::print(stderr, "{} of {}: {}\n", report.rows.size() + 1, variants.size(),
                 tools::name_of(variant, report.config));
    }
    const auto start = std::chrono::steady_clock::now();
    const tools::PruneResult result = pruner.try_out(variant, flags.report);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    report.rows.push_back({.variant = variant, .result = result, .seconds = taken.count()});
    // After each, so that what is done is not lost when a later one fails.
    write_report_file(flags.report / "report.json", tools::prune_report_json(report, 2) + "\n");
    write_report_file(flags.report / "report.html", tools::prune_report_html(report));
  }
  fmt::print("{}",
             flags.json ? tools::prune_report_json(report, -1) + "\n" : tools::prune_report_table(report));
  if (!flags.json) fmt::print("{}\n", log::escape((flags.report / "report.html").string()));
}

int run_prune(PruneFlags& flags, const std::string& version) {
  InterruptWatcher watcher;  // before any other thread
  log::set_level(log::parse_level(flags.log_level));
  if (flags.output.empty() == flags.report.empty()) {
    throw UsageError(fmt::format("expected either --output or --report, found {}",
                                 flags.output.empty() ? "neither" : "both"));
  }
  tools::PruneOptions& options = flags.options;
  flags.variant.method = tools::parse_prune_method(flags.method);
  options.dtype = parse_dtype(flags.dtype);
  options.isa = select_instruction_set(flags.instruction_set);
  options.fit_loss = flags.fit_loss == "output" ? tools::FitLoss::output : tools::FitLoss::logits;
  options.threads = flags.threads > 0 ? flags.threads : available_cores();
  options.show_progress = isatty(STDERR_FILENO) != 0;
  options.version = version;
  Interruption interruption;
  options.interruption = &interruption;
  try {
    const auto armed = watcher.on_interrupt([&](int /*signal*/) { interruption.request(); });
    tools::Pruner pruner(options);
    if (flags.report.empty()) {
      print_result(flags, pruner.prune(flags.variant, flags.output, flags.force));
    } else {
      run_report(flags, pruner);
    }
  } catch (const Interrupted&) {
    fmt::print(stderr, "\nchorale: interrupted; {}\n",
               flags.report.empty() ? "nothing was written to " + log::escape(flags.output.string())
                                    : "the report has what was done before");
    return 130;
  }
  return 0;
}

}  // namespace

Command add_prune(CLI::App& root, const std::string& version) {
  auto flags = std::make_shared<PruneFlags>();
  tools::PruneOptions& options = flags->options;
  CLI::App* app = root.add_subcommand("prune", "Make a model with fewer experts, down to one");
  app->group(kOffline);
  add_model_path(*app, options.model_path, ModelArgument::required);
  auto* output = app->add_option("--output", flags->output, "Folder of the result, which must not exist")
                     ->option_text("DIR (required, or --report)")
                     ->group("Model");
  app->add_flag("--force", flags->force, "Replace the checkpoint that is at --output")->group("Model");
  app->add_option("--experts", flags->variant.num_experts,
                  "Experts that each layer will have; average and fit: 1")
      ->option_text("N")
      ->group("Method");
  app->add_option(
         "--method", flags->method,
         "first, list:3,7, list:FILE.json, frequency, reap, router: keep these experts; average, fit: "
         "make one of all (reap)")
      ->option_text("M")
      ->group("Method");
  app->add_option("--expert-width", flags->variant.expert_width,
                  "fit: moe_intermediate_size of the one expert; 0: the model's own")
      ->option_text("W")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24))
      ->group("Method");
  app->add_option("--fit-steps", flags->variant.fit_steps,
                  "fit: steps of training per layer; 0: closed form (500)")
      ->option_text("N")
      ->check(CLI::Range(int64_t{0}, int64_t{1000000}))
      ->group("Method");
  app->add_option("--fit-loss", flags->fit_loss,
                  "fit: logits: what predictions lose counts too; output: the layer's output alone (logits)")
      ->option_text("LOSS")
      ->check(CLI::IsMember({"logits", "output"}))
      ->group("Method");
  app->add_option("--seed", options.seed, "fit: order of the training tokens (0)")
      ->option_text("S")
      ->group("Method");
  app->add_option("--calibration-file", options.calibration_file,
                  "Text that experts are scored or fitted with, UTF-8")
      ->option_text("FILE")
      ->group("Texts");
  app->add_option("--calibration-tokens", options.calibration_tokens,
                  "Use its first N tokens (32768; fit: all)")
      ->option_text("N")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 31))
      ->group("Texts");
  app->add_option("--window", options.window, "Tokens of one sequence of the texts (512)")
      ->option_text("N")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 20))
      ->group("Texts");
  app->add_option("--heldout-file", options.heldout_file,
                  "Text on which the likelihood before and after is measured, UTF-8")
      ->option_text("FILE")
      ->group("Texts");
  app->add_option("--heldout-windows", options.heldout_windows, "Score only its first N windows; 0: all (24)")
      ->option_text("N")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->group("Texts");
  auto* report =
      app->add_option(
             "--report", flags->report,
             "Keep no checkpoint: a table of several ways of pruning, report.html and report.json here")
          ->option_text("DIR")
          ->excludes(output)
          ->group("Report");
  app->add_option("--variants", flags->variants,
                  "Its lines: METHOD:N, average, fit, fit:WIDTH, fit:WIDTH:STEPS (a choice of all methods)")
      ->option_text("V,V,...")
      ->delimiter(',')
      ->needs(report)
      ->group("Report");
  app->add_option("--dtype", flags->dtype, "Type of the computation: float32 or bfloat16 (float32)")
      ->option_text("TYPE")
      ->group("Execution");
  app->add_option("--threads", flags->threads, "Threads; 0: one per core")
      ->option_text("N")
      ->check(CLI::Range(0, 1024))
      ->group("Execution");
  app->add_option("--instruction-set", flags->instruction_set, "Vector instructions, as for serve (auto)")
      ->option_text("SET")
      ->group("Execution");
  add_json_flag(*app, flags->json);
  add_log_level_flag(*app, flags->log_level)->group("Output");
  return {app, [flags, version] { return run_prune(*flags, version); }};
}

}  // namespace chorale::apps
