// chorale prune: fewer experts, down to one.
#include "tools/prune/prune.h"

#include <memory>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "apps/command.h"
#include "apps/interrupt.h"
#include "base/error.h"
#include "base/log.h"
#include "base/thread_pool.h"

namespace chorale::apps {
namespace {

struct PruneFlags {
  tools::PruneOptions options;
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

int run_prune(PruneFlags& flags, const std::string& version) {
  InterruptWatcher watcher;  // before any other thread
  log::set_level(log::parse_level(flags.log_level));
  tools::PruneOptions& options = flags.options;
  options.method = tools::parse_prune_method(flags.method);
  options.dtype = parse_dtype(flags.dtype);
  options.isa = select_instruction_set(flags.instruction_set);
  options.fit_loss = flags.fit_loss == "output" ? tools::FitLoss::output : tools::FitLoss::logits;
  options.threads = flags.threads > 0 ? flags.threads : available_cores();
  options.show_progress = isatty(STDERR_FILENO) != 0;
  options.version = version;
  Interruption interruption;
  options.interruption = &interruption;
  tools::PruneResult result;
  try {
    const auto armed = watcher.on_interrupt([&] { interruption.request(); });
    result = tools::prune(options);
  } catch (const Interrupted&) {
    fmt::print(stderr, "\nchorale: interrupted; nothing was written to {}\n",
               log::escape(options.output.string()));
    return 130;
  }
  if (flags.json) {
    const auto number = [](const std::optional<double>& value) {
      return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
    };
    const nlohmann::ordered_json json = {
        {"output", options.output.string()},       {"method", tools::name_of(options.method.kind)},
        {"num_experts", result.num_experts},       {"moe_intermediate_size", result.width},
        {"weight_bytes", result.weight_bytes},     {"calibration_tokens", result.calibration_tokens},
        {"nll_before", number(result.nll_before)}, {"nll_after", number(result.nll_after)}};
    fmt::print("{}\n", json.dump());
  } else {
    fmt::print("{}: {} expert{} per layer of width {}, {:.1f} MB of weights\n", options.output.string(),
               result.num_experts, result.num_experts == 1 ? "" : "s", result.width,
               static_cast<double>(result.weight_bytes) / 1e6);
    fmt::print("held-out negative log-likelihood, nats per token: {} before, {} after\n",
               describe(result.nll_before), describe(result.nll_after));
  }
  return 0;
}

}  // namespace

Command add_prune(CLI::App& root, const std::string& version) {
  auto flags = std::make_shared<PruneFlags>();
  tools::PruneOptions& options = flags->options;
  CLI::App* app = root.add_subcommand("prune", "Make a model with fewer experts, down to one");
  app->group(kOffline);
  app->add_option("--model-path", options.model_path, "Folder of the checkpoint")
      ->option_text("DIR (required)")
      ->required()
      ->group("Model");
  app->add_option("--output", options.output, "Folder of the result, which must not exist")
      ->option_text("DIR (required)")
      ->required()
      ->group("Model");
  app->add_flag("--force", options.force, "Replace the checkpoint that is at --output")->group("Model");
  app->add_option("--experts", options.num_experts, "Experts that each layer will have; average and fit: 1")
      ->option_text("N")
      ->group("Method");
  app->add_option(
         "--method", flags->method,
         "first, list:3,7, list:FILE.json, frequency, reap, router: keep these experts; average, fit: "
         "make one of all (reap)")
      ->option_text("M")
      ->group("Method");
  app->add_option("--expert-width", options.expert_width,
                  "fit: moe_intermediate_size of the one expert; 0: the model's own")
      ->option_text("W")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24))
      ->group("Method");
  app->add_option("--fit-steps", options.fit_steps, "fit: steps of training per layer; 0: closed form (1500)")
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
