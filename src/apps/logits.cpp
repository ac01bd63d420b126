// chorale logits: the logits of every token of one sequence, as a safetensors file.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/settings.h"
#include "apps/text_model.h"
#include "base/error.h"
#include "base/log.h"
#include "base/math.h"
#include "io/checkpoint.h"
#include "tools/run_sequence.h"

namespace chorale::apps {
namespace {

struct LogitsFlags {
  engine::LoadOptions load;
  std::optional<std::string> input_ids;
  std::optional<std::string> text;
  std::string output;
  std::string log_level = "warn";
  bool json = false;
};

std::vector<int32_t> read_ids(const LogitsFlags& flags, const io::ModelConfig& config) {
  if (flags.input_ids) return parse_input_ids(*flags.input_ids, config.vocab_size);
  require_utf8(*flags.text, "--text");
  std::vector<int32_t> ids = load_tokenizer(flags.load, config).encode(*flags.text, true);
  if (ids.empty()) throw_error("--text: the text has no tokens");
  return ids;
}

int run_logits(const LogitsFlags& flags) {
  log::set_level(log::parse_level(flags.log_level));
  const std::filesystem::path folder = std::filesystem::absolute(flags.output).parent_path();
  if (!std::filesystem::is_directory(folder)) throw_error("--output: there is no folder {}", folder.string());
  const io::ModelConfig config = io::load_model_config(flags.load.model_path);
  const std::vector<int32_t> ids = read_ids(flags, config);
  const auto num_tokens = static_cast<int64_t>(ids.size());
  engine::LoadedModel model = load_for_one_sequence(flags.load, config, num_tokens, "the input");
  if (!model.is_driver()) return model.serve_steps();

  const int64_t vocab_size = model.runner().vocab_size();
  const auto size = checked_mul(num_tokens, vocab_size);
  if (!size) throw_error("{} x {} logits are too many", num_tokens, vocab_size);
  std::vector<float> logits(static_cast<size_t>(*size));
  tools::run_sequence(model.runner(), ids, std::min(flags.load.chunked_prefill_size, num_tokens),
                      [&](int64_t first, std::span<const float> rows) {
                        std::copy(rows.begin(), rows.end(), logits.begin() + first * vocab_size);
                      });

  const io::TensorToWrite tensor{
      "logits", DType::f32, {num_tokens, vocab_size}, std::as_bytes(std::span(logits))};
  io::write_safetensors(flags.output, {&tensor, 1});
  if (flags.json) {
    const engine::ModelInfo& info = model.info();
    const nlohmann::ordered_json result = {{"output", flags.output},
                                           {"tokens", num_tokens},
                                           {"vocab_size", vocab_size},
                                           {"dtype", info.dtype_name()},
                                           {"quantization", info.quantization_name()},
                                           {"kv_cache_dtype", name_of(info.kv_dtype)},
                                           {"device", info.device},
                                           {"instruction_set", info.instruction_set_name()}};
    fmt::print("{}\n", result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    fmt::print("{}: logits [{}, {}]\n", flags.output, num_tokens, vocab_size);
  }
  return 0;
}

}  // namespace

Command add_logits(CLI::App& root) {
  auto flags = std::make_shared<LogitsFlags>();
  CLI::App* app = root.add_subcommand("logits", "Write the logits of every token of a text to a file");
  app->group(kOffline);
  add_config_flag(*app);
  auto* input_ids = app->add_option("--input-ids", flags->input_ids, "Token ids; this or --text is required")
                        ->option_text("1,2,3")
                        ->group("Input");
  app->add_option("--text", flags->text, "Text to tokenize")
      ->option_text("TEXT")
      ->excludes(input_ids)
      ->group("Input");
  app->parse_complete_callback([flags] {
    if (!flags->input_ids && !flags->text) throw CLI::RequiredError("--input-ids or --text");
  });
  app->add_option("--output", flags->output, "File to write: one f32 tensor \"logits\" [tokens, vocabulary]")
      ->option_text("FILE (required)")
      ->required()
      ->group("Output");
  add_json_flag(*app, flags->json);
  add_model_flags(*app, flags->load);
  add_execution_flags(*app, flags->load);
  add_parallel_flags(*app, flags->load);
  add_chunk_flag(*app, flags->load)->group("Execution");
  add_log_level_flag(*app, flags->log_level)->group("Output");
  return {app, [flags] { return run_logits(*flags); }};
}

}  // namespace chorale::apps
