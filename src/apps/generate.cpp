// chorale generate: one prompt, streamed to the terminal.
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <variant>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "apps/command.h"
#include "apps/foreign_flags.h"
#include "apps/interrupt.h"
#include "apps/sampling_flags.h"
#include "apps/settings.h"
#include "apps/text_model.h"
#include "apps/text_request.h"
#include "base/error.h"
#include "base/log.h"
#include "base/math.h"
#include "engine/engine.h"
#include "io/file_access.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "tools/load_tokenizer.h"

namespace chorale::apps {
namespace {

constexpr const char* kRequestId = "generate";
constexpr int64_t kMaxNewTokens = 128;
constexpr uint64_t kMaxPromptBytes = uint64_t{64} << 20;

struct GenerateFlags {
  engine::LoadOptions load;
  std::filesystem::path chat_template;  // empty: the model's
  std::optional<std::string> given_prompt;
  std::string prompt_file;  // empty: none; "-": standard input
  std::string prompt;       // as given or read
  bool chat = false;
  bool no_thinking = false;
  SamplingFlags sampling;
  std::string log_level = "warn";
  bool json = false;
};

// A file's text as it is, but for a line break at its end, which editors put there.
std::string read_prompt(const std::string& file) {
  std::string text;
  if (file == "-") {
    text.assign(std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>());
    if (std::cin.bad()) throw_error("--prompt-file -: standard input cannot be read");
  } else {
    text = io::read_text_file(file, kMaxPromptBytes);
  }
  if (text.size() > kMaxPromptBytes)
    throw_error("--prompt-file {}: expected at most {} bytes, found more", file, kMaxPromptBytes);
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  return text;
}

// Without a flag it is what comes on standard input, unless a person sits there.
void take_prompt(GenerateFlags& flags) {
  if (flags.given_prompt) {
    flags.prompt = *flags.given_prompt;
    return;
  }
  if (!flags.prompt_file.empty()) {
    flags.prompt = read_prompt(flags.prompt_file);
    return;
  }
  if (isatty(STDIN_FILENO) == 0) flags.prompt = read_prompt("-");
  if (flags.prompt.empty()) {
    throw_error("--prompt is required, or --prompt-file, or a text on standard input");
  }
}

std::string render_prompt(const GenerateFlags& flags) {
  require_utf8(flags.prompt, flags.prompt_file.empty() ? "--prompt" : "--prompt-file " + flags.prompt_file);
  for (const std::string& stop : flags.sampling.stop) require_utf8(stop, "--stop");
  if (!flags.chat) return flags.prompt;
  const std::optional<text::ChatTemplate> chat =
      load_chat_template(flags.load.model_path, flags.chat_template);
  if (!chat) throw_error("--chat: {} has no chat template", flags.load.model_path.string());
  if (chat->error()) throw_error("--chat: the chat template cannot be used: {}", *chat->error());
  nlohmann::ordered_json variables = {{"messages", {{{"role", "user"}, {"content", flags.prompt}}}},
                                      {"add_generation_prompt", true}};
  if (flags.no_thinking) variables["enable_thinking"] = false;
  auto rendered = chat->render(variables.dump());
  if (const auto* error = std::get_if<RequestError>(&rendered)) throw_error("--chat: {}", error->message);
  return std::get<std::string>(std::move(rendered));
}

// Prints the text as it comes, unless `quiet`.
TextAnswer print_answer(engine::Engine& engine, const text::Tokenizer& tokenizer,
                        engine::GenerationRequest request, const std::vector<std::string>& stop, bool quiet) {
  const auto tell = [quiet](const server::TextPiece& piece) {
    if (quiet) return;
    fmt::print("{}", piece.text);
    std::fflush(stdout);
  };
  TextAnswer answer = run_request(engine, tokenizer, std::move(request), {.stop = stop}, tell);
  if (!quiet) fmt::print("\n");
  if (answer.last.error) throw_error("{}", answer.last.error->message);
  return answer;
}

void print_json(const TextAnswer& answer, const std::string& prompt) {
  const server::TextPiece& last = answer.last;
  const char* reason = last.finish == engine::FinishReason::stop     ? "stop"
                       : last.finish == engine::FinishReason::length ? "length"
                                                                     : "aborted";
  nlohmann::ordered_json json = {{"prompt", prompt},
                                 {"text", answer.text},
                                 {"output_ids", answer.output_ids},
                                 {"finish_reason", reason},
                                 {"prompt_tokens", last.num_prompt_tokens},
                                 {"completion_tokens", last.num_completion_tokens}};
  if (last.matched_stop_token) json["matched_stop"] = *last.matched_stop_token;
  if (last.matched_stop_string) json["matched_stop"] = *last.matched_stop_string;
  fmt::print("{}\n", json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

int run_generate(GenerateFlags flags) {
  log::set_level(log::parse_level(flags.log_level));
  take_prompt(flags);
  InterruptWatcher interrupt;
  const io::ModelConfig config = io::load_model_config(flags.load.model_path);
  const text::Tokenizer tokenizer = load_tokenizer(flags.load, config);
  const std::vector<int32_t> eos_token_ids = tools::end_tokens(flags.load.model_path, config, tokenizer);
  const std::string prompt = render_prompt(flags);
  engine::GenerationRequest request;
  request.id = kRequestId;
  request.prompt_ids = tokenizer.encode(prompt, true);
  const auto num_prompt_tokens = static_cast<int64_t>(request.prompt_ids.size());
  if (num_prompt_tokens == 0) throw_error("--prompt: the text has no tokens");

  engine::LoadOptions load = flags.load;
  const int64_t context = load.context_length > 0
                              ? std::min(load.context_length, config.max_position_embeddings)
                              : config.max_position_embeddings;
  if (num_prompt_tokens >= context) {
    throw_error("--prompt: the text has {} tokens; the model's context has {}", num_prompt_tokens, context);
  }
  const int64_t max_new_tokens =
      std::min(flags.sampling.max_new_tokens.value_or(kMaxNewTokens), context - num_prompt_tokens);
  // One block more than the sequence, so that its last token never waits for memory.
  const int64_t block_tokens = engine::block_tokens(load);
  load.max_total_tokens = round_up(num_prompt_tokens + max_new_tokens, block_tokens) + block_tokens;
  load.max_running_requests = 1;
  load.show_progress = isatty(STDERR_FILENO) != 0;
  engine::LoadedModel model = engine::LoadedModel::load(load);
  if (!model.is_driver()) return model.serve_steps();
  request.sampling = sampling_params(flags.sampling, model.info().generation_defaults);
  request.sampling.max_new_tokens = max_new_tokens;

  engine::EngineOptions options;
  options.max_total_tokens = model.info().max_total_tokens;
  options.chunked_prefill_size = load.chunked_prefill_size;
  options.max_running_requests = 1;
  options.max_context_len = model.info().max_context_len;
  options.eos_token_ids = eos_token_ids;
  engine::Engine engine(model.runner(), options);
  const auto armed = interrupt.on_interrupt([&engine](int /*signal*/) { engine.abort(kRequestId); });
  const TextAnswer answer =
      print_answer(engine, tokenizer, std::move(request), flags.sampling.stop, flags.json);
  if (flags.json) print_json(answer, prompt);
  return 0;
}

}  // namespace

Command add_generate(CLI::App& root) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* app = root.add_subcommand("generate", "Continue a prompt, streaming to the terminal");
  app->group(kOffline);
  add_config_flag(*app);
  CLI::Option* prompt = app->add_option("--prompt", flags->given_prompt, "Text to continue")
                            ->option_text("TEXT")
                            ->group("Input");
  app->add_option(with_aliases("--prompt-file"), flags->prompt_file,
                  "File with the text to continue; - or neither of both: standard input")
      ->option_text("FILE")
      ->excludes(prompt)
      ->group("Input");
  auto* chat =
      app->add_flag("--chat", flags->chat, "Put the prompt into the model's chat template")->group("Input");
  app->add_flag("--no-thinking", flags->no_thinking, "With --chat: render with enable_thinking = false")
      ->needs(chat)
      ->option_text(" ")
      ->group("Input");
  add_sampling_flags(*app, flags->sampling, std::to_string(kMaxNewTokens));
  add_model_flags(*app, flags->load);
  add_chat_template_flag(*app, flags->chat_template);
  add_execution_flags(*app, flags->load);
  add_parallel_flags(*app, flags->load);
  add_chunk_flag(*app, flags->load)->group("Execution");
  add_json_flag(*app, flags->json);
  add_log_level_flag(*app, flags->log_level)->group("Output");
  return {app, [flags] { return run_generate(*flags); }};
}

}  // namespace chorale::apps
