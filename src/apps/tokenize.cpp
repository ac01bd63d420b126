// chorale tokenize: the ids and pieces of a text.
#include <algorithm>
#include <cstdio>
#include <memory>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "apps/command.h"
#include "apps/settings.h"
#include "apps/text_model.h"
#include "base/log.h"
#include "text/tokenizer.h"
#include "tools/load_tokenizer.h"

namespace chorale::apps {
namespace {

struct TokenizeFlags {
  std::filesystem::path model_path;
  std::string text;
  bool json = false;
};

// A token may be a part of a character: such bytes become U+FFFD in JSON and \xNN at the terminal.
int run_tokenize(const TokenizeFlags& flags) {
  require_utf8(flags.text, "--text");
  tools::check_tokenizer_files(flags.model_path);
  const text::Tokenizer tokenizer = text::Tokenizer::load(flags.model_path);
  const std::vector<int32_t> ids = tokenizer.encode(flags.text, true);
  if (flags.json) {
    nlohmann::ordered_json result = {
        {"ids", ids}, {"pieces", nlohmann::json::array()}, {"count", ids.size()}};
    for (const int32_t id : ids) result["pieces"].push_back(tokenizer.token_bytes(id));
    fmt::print("{}\n", result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    return 0;
  }
  for (const int32_t id : ids) fmt::print("{:>7}  \"{}\"\n", id, log::escape(tokenizer.token_bytes(id)));
  fmt::print("{} tokens\n", ids.size());
  return 0;
}

}  // namespace

Command add_tokenize(CLI::App& root) {
  auto flags = std::make_shared<TokenizeFlags>();
  CLI::App* app = root.add_subcommand("tokenize", "Show the token ids of a text");
  app->group(kOffline);
  add_config_flag(*app);
  add_model_path(*app, flags->model_path, ModelArgument::required);
  app->add_option("--text", flags->text, "Text to tokenize")
      ->option_text("TEXT (required)")
      ->required()
      ->group("Input");
  add_json_flag(*app, flags->json);
  return {app, [flags] { return run_tokenize(*flags); }};
}

}  // namespace chorale::apps
