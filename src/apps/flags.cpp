#include <CLI/CLI.hpp>

#include "apps/command.h"

namespace chorale::apps {
namespace {

constexpr const char* kModel = "Model";
constexpr const char* kExecution = "Execution";
constexpr int64_t kMaxTokens = int64_t{1} << 40;

}  // namespace

void add_model_flags(CLI::App& app, engine::LoadOptions& options) {
  app.add_option("--model-path", options.model_path, "Folder of a Hugging Face checkpoint")
      ->option_text("DIR (required)")
      ->required()
      ->group(kModel);
  app.add_option("--load-format", options.load_format,
                 "auto: the checkpoint's files; dummy: seeded random weights")
      ->option_text("auto|dummy")
      ->check(CLI::IsMember({"auto", "dummy"}))
      ->group(kModel);
  app.add_option("--dtype", options.dtype, "Type of computation; auto is bfloat16")
      ->option_text("auto|bfloat16|float32")
      ->check(CLI::IsMember({"auto", "bfloat16", "float32"}))
      ->group(kModel);
  app.add_option("--context-length", options.context_length,
                 "Most tokens of one sequence; 0: the model's max_position_embeddings")
      ->option_text("N")
      ->check(CLI::Range(int64_t{0}, kMaxTokens))
      ->group(kModel);
}

void add_execution_flags(CLI::App& app, engine::LoadOptions& options) {
  app.add_option("--threads", options.threads, "Threads that compute; 0: one per core this process may use")
      ->option_text("N")
      ->check(CLI::Range(0, 1024))
      ->group(kExecution);
  app.add_option("--instruction-set", options.instruction_set,
                 "Vector instructions; auto: the fastest there are")
      ->option_text("auto|avx512_bf16|avx512|avx2|portable")
      ->check(CLI::IsMember({"auto", "avx512_bf16", "avx512", "avx2", "portable"}))
      ->group(kExecution);
}

CLI::Option* add_chunk_flag(CLI::App& app, engine::LoadOptions& options) {
  return app
      .add_option("--chunked-prefill-size", options.chunked_prefill_size,
                  "Most prompt tokens that one step computes; it never changes a result (512)")
      ->option_text("N")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
}

CLI::Option* add_log_level_flag(CLI::App& app, std::string& level) {
  return app.add_option("--log-level", level, "Least severe messages to log, on standard error")
      ->option_text("debug|info|warn|error|critical|off")
      ->check(CLI::IsMember({"debug", "info", "warn", "error", "critical", "off"}));
}

CLI::Option* add_json_flag(CLI::App& app, bool& json) {
  return app.add_flag("--json", json, "Print one JSON object, for machines")->group("Output");
}

}  // namespace chorale::apps
