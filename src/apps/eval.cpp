// chorale eval: how well the model predicts a text.
#include "tools/eval.h"

#include <algorithm>
#include <cstdio>
#include <memory>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "apps/command.h"
#include "apps/settings.h"
#include "apps/text_model.h"
#include "base/log.h"
#include "io/file_access.h"

namespace chorale::apps {
namespace {

constexpr uint64_t kMaxTextBytes = uint64_t{1} << 30;

struct EvalFlags {
  engine::LoadOptions load;
  std::string text_file;
  int64_t window = 512;
  int64_t max_windows = 0;
  std::string log_level = "warn";
  bool json = false;
};

int run_eval(const EvalFlags& flags) {
  log::set_level(log::parse_level(flags.log_level));
  const io::ModelConfig config = io::load_model_config(flags.load.model_path);
  const std::string text = io::read_text_file(flags.text_file, kMaxTextBytes);
  require_utf8(text, fmt::format("--text-file {}", flags.text_file));
  const std::vector<int32_t> ids = load_tokenizer(flags.load, config).encode(text, true);
  const int64_t longest = std::clamp(static_cast<int64_t>(ids.size()), int64_t{2}, flags.window);
  engine::LoadedModel model = load_for_one_sequence(flags.load, config, longest, "a window (--window)");
  if (!model.is_driver()) return model.serve_steps();

  tools::EvalOptions options;
  options.window = flags.window;
  options.max_windows = flags.max_windows;
  options.chunk_size = std::min(flags.load.chunked_prefill_size, longest);
  const bool show_progress = isatty(STDERR_FILENO) != 0;
  if (show_progress) {
    options.on_window = [](int64_t done, int64_t total) {
      fmt::print(stderr, "\rwindow {} of {}{}", done, total, done == total ? "\n" : "");
    };
  }
  const tools::EvalResult result = tools::evaluate(model.runner(), ids, options);

  if (flags.json) {
    const engine::ModelInfo& info = model.info();
    const nlohmann::ordered_json json = {{"nll", result.nll},
                                         {"perplexity", result.perplexity},
                                         {"tokens", result.tokens},
                                         {"windows", result.windows},
                                         {"window", flags.window},
                                         {"dtype", info.dtype_name()},
                                         {"quantization", info.quantization_name()},
                                         {"kv_cache_dtype", name_of(info.kv_dtype)},
                                         {"device", info.device},
                                         {"instruction_set", info.instruction_set_name()}};
    fmt::print("{}\n", json.dump());
  } else {
    fmt::print("nll {:.5f} nats per token, perplexity {:.3f}, over {} tokens in {} windows of {}\n",
               result.nll, result.perplexity, result.tokens, result.windows, flags.window);
  }
  return 0;
}

}  // namespace

Command add_eval(CLI::App& root) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* app = root.add_subcommand("eval", "Measure how well the model predicts a text");
  app->group(kOffline);
  add_config_flag(*app);
  app->add_option("--text-file", flags->text_file, "Text to score, UTF-8")
      ->option_text("FILE (required)")
      ->required()
      ->group("Input");
  app->add_option("--window", flags->window, "Tokens of one window; each is scored on its own (512)")
      ->option_text("N")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 20))
      ->group("Input");
  app->add_option("--max-windows", flags->max_windows, "Score only the first N windows; 0: all")
      ->option_text("N")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->group("Input");
  add_json_flag(*app, flags->json);
  add_model_flags(*app, flags->load);
  add_execution_flags(*app, flags->load);
  add_parallel_flags(*app, flags->load);
  add_chunk_flag(*app, flags->load)->group("Execution");
  add_log_level_flag(*app, flags->log_level)->group("Output");
  return {app, [flags] { return run_eval(*flags); }};
}

}  // namespace chorale::apps
