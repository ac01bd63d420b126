// chorale check: is this checkpoint fit to be served?
#include "tools/check/check.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "base/error.h"
#include "base/log.h"
#include "base/memory_info.h"
#include "base/thread_pool.h"
#include "io/model_folder.h"

namespace chorale::apps {
namespace {

struct CheckFlags {
  std::string directory;  // or the name of a model
  std::shared_ptr<const std::string> revision;
  int threads = 0;
  bool json = false;
};

nlohmann::ordered_json to_json(const tools::CheckReport& report, const std::string& directory) {
  nlohmann::ordered_json json = {{"ok", report.ok()},
                                 {"path", directory},
                                 {"errors", report.errors},
                                 {"warnings", report.warnings},
                                 {"tensors", report.num_tensors},
                                 {"parameters", report.num_parameters},
                                 {"weight_bytes", report.weight_bytes},
                                 {"tokenizer_vocab_size", report.tokenizer_vocab_size},
                                 {"chat_template", report.has_chat_template}};
  if (report.config) {
    const io::ModelConfig& config = *report.config;
    json["config"] = {{"architecture", config.architecture},
                      {"num_hidden_layers", config.num_hidden_layers},
                      {"num_experts", config.num_experts},
                      {"num_experts_per_tok", config.num_experts_per_tok},
                      {"hidden_size", config.hidden_size},
                      {"vocab_size", config.vocab_size},
                      {"max_position_embeddings", config.max_position_embeddings}};
  }
  json["end_tokens"] = nlohmann::ordered_json::array();
  for (const tools::EndToken& token : report.end_tokens)
    json["end_tokens"].push_back({{"id", token.id}, {"text", token.text}});
  return json;
}

void print_report(const tools::CheckReport& report, const std::string& directory) {
  fmt::print("{}\n", log::escape(directory));
  if (report.config) {
    const io::ModelConfig& config = *report.config;
    fmt::print("  config     {}: {} layers, hidden size {}, {} experts, {} per token, context {}\n",
               config.architecture, config.num_hidden_layers, config.hidden_size, config.num_experts,
               config.num_experts_per_tok, config.max_position_embeddings);
  }
  if (report.num_tensors > 0) {
    fmt::print("  weights    {} tensors, {:.1f} M parameters, {}\n", report.num_tensors,
               static_cast<double>(report.num_parameters) / 1e6, format_bytes(report.weight_bytes));
  }
  if (report.tokenizer_vocab_size > 0) fmt::print("  tokenizer  {} tokens\n", report.tokenizer_vocab_size);
  if (!report.end_tokens.empty()) {
    std::vector<std::string> tokens;
    for (const tools::EndToken& token : report.end_tokens)
      tokens.push_back(fmt::format("{} ({})", log::escape(token.text), token.id));
    fmt::print("  answers    end with {}\n", fmt::join(tokens, ", "));
  }
  if (report.has_chat_template) fmt::print("  chat       the template works\n");
  for (const std::string& warning : report.warnings) fmt::print("warning: {}\n", log::escape(warning));
  for (const std::string& error : report.errors) fmt::print("error: {}\n", log::escape(error));
  fmt::print("{}\n", report.ok() ? "ok" : "not usable");
}

// A model by its name that is not here is an error like those of a folder.
tools::CheckReport check(const CheckFlags& flags, ThreadPool& pool) {
  tools::CheckReport report;
  try {
    report = tools::check_checkpoint(io::checkpoint_folder(flags.directory, *flags.revision), pool);
  } catch (const Error& error) {
    report.errors.emplace_back(error.what());
  }
  return report;
}

int run_check(const CheckFlags& flags) {
  ThreadPool pool(flags.threads > 0 ? flags.threads : available_cores());
  const tools::CheckReport report = check(flags, pool);
  if (flags.json) {
    fmt::print(
        "{}\n",
        to_json(report, flags.directory).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    print_report(report, flags.directory);
  }
  return report.ok() ? 0 : 1;
}

}  // namespace

Command add_check(CLI::App& root) {
  auto flags = std::make_shared<CheckFlags>();
  CLI::App* app =
      root.add_subcommand("check", "Check a checkpoint's config, weights, tokenizer and chat template");
  app->group(kOffline);
  app->add_option("DIR", flags->directory,
                  "Folder of a Hugging Face checkpoint, or the name of a model in the cache")
      ->option_text("(required)")
      ->required();
  flags->revision = add_revision_flag(*app);
  app->add_option("--threads", flags->threads, "Threads that read; 0: one per core this process may use")
      ->option_text("N")
      ->check(CLI::Range(0, 1024))
      ->group("Execution");
  add_json_flag(*app, flags->json);
  return {app, [flags] { return run_check(*flags); }};
}

}  // namespace chorale::apps
