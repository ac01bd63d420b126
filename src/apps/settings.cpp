#include "apps/settings.h"

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdlib>
#include <iterator>
#include <optional>
#include <sstream>
#include <string_view>
#include <utility>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "apps/foreign_flags.h"
#include "apps/settings_file.h"
#include "base/error.h"

namespace chorale::apps {
namespace {

constexpr std::string_view kConfig = "config";
constexpr std::string_view kHelp = "help";
constexpr const char* kPositionalModel = "DIR";

std::string variable_name(std::string_view flag) {
  std::string name = "CHORALE_";
  for (const char c : flag) {
    name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return name;
}

// Kubernetes tells where a service called "chorale" is in CHORALE_PORT=tcp://10.0.0.1:80, and the like.
bool is_service_address(std::string_view value) {
  return value.starts_with("tcp://") || value.starts_with("udp://") || value.starts_with("sctp://");
}

std::optional<std::string> variable(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (value == nullptr || *value == '\0' || is_service_address(value)) return std::nullopt;
  return value;
}

std::optional<bool> boolean(std::string text) {
  std::ranges::transform(text, text.begin(), [](char c) {
    return static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  });
  if (text == "true" || text == "yes" || text == "on" || text == "1") return true;
  if (text == "false" || text == "no" || text == "off" || text == "0") return false;
  return std::nullopt;
}

// The model may also stand by itself.
bool is_given(const CLI::App& app, const CLI::Option& option) {
  if (option.count() > 0) return true;
  const CLI::Option* positional = app.get_option_no_throw(kPositionalModel);
  if (positional != nullptr && option.get_lnames().front() == "model-path" && positional->count() > 0)
    return true;
  return std::ranges::any_of(option.get_excludes(),
                             [](const CLI::Option* other) { return other->count() > 0; });
}

bool is_flag(const CLI::Option& option) {
  return option.get_items_expected_max() == 0;
}

// As if it stood on the command line. A flag that is set to false is as one that is not there.
void set_option(CLI::Option& option, const std::vector<std::string>& values, const std::string& origin) {
  const std::string name = option.get_lnames().front();
  try {
    if (is_flag(option)) {
      const std::optional<bool> on = values.size() == 1 ? boolean(values.front()) : std::nullopt;
      if (!on) throw CLI::ValidationError("--" + name, "expected true or false");
      if (*on) option.add_result(option.get_flag_value(name, ""));
    } else {
      for (const std::string& value : values) option.add_result(value);
    }
    if (option.count() > 0) option.run_callback();
  } catch (const CLI::ParseError& error) {
    throw CLI::ConfigError(fmt::format("{}: {}", origin, error.what()), CLI::ExitCodes::ConfigError);
  }
}

// Of a flag that takes several values they are separated by spaces, as on the command line.
std::vector<std::string> values_of(const CLI::Option& option, const std::string& text) {
  if (option.get_items_expected_max() <= 1 || !option.get_allow_extra_args()) return {text};
  std::istringstream words(text);
  std::vector<std::string> values;
  for (std::string word; words >> word;) values.push_back(word);
  return values;
}

std::vector<CLI::Option*> options_of(CLI::App& app) {
  std::vector<CLI::Option*> options = app.get_options();
  std::erase_if(options, [](const CLI::Option* option) {
    const auto& names = option->get_lnames();
    return names.empty() || names.front() == kConfig || names.front() == kHelp;
  });
  return options;
}

bool has_name(const CLI::Option& option, std::string_view name) {
  return std::ranges::find(option.get_lnames(), name) != option.get_lnames().end();
}

// Gives those that the command line or the environment decides, though it be that a flag is off.
std::vector<const CLI::Option*> take_environment(CLI::App& app) {
  const std::vector<CLI::Option*> options = options_of(app);
  std::vector<const CLI::Option*> decided;
  std::ranges::copy_if(options, std::back_inserter(decided),
                       [&](const CLI::Option* option) { return is_given(app, *option); });
  const size_t num_given = decided.size();
  for (CLI::Option* option : options) {
    const auto given_end = decided.begin() + static_cast<ptrdiff_t>(num_given);
    if (std::find(decided.begin(), given_end, option) != given_end) continue;
    for (const std::string& flag : option->get_lnames()) {
      const std::string name = variable_name(flag);
      const std::optional<std::string> value = variable(name);
      if (!value) continue;
      set_option(*option, values_of(*option, *value), "the environment variable " + name);
      decided.push_back(option);
      break;
    }
  }
  return decided;
}

bool serve_has(const CLI::App& app, std::string_view key) {
  const CLI::App* root = app.get_parent();
  if (root == nullptr) return false;
  const auto is_serve = [](const CLI::App* command) { return command->get_name() == "serve"; };
  for (const CLI::App* serve : root->get_subcommands(is_serve)) {
    const std::vector<std::string> names = long_names(*serve);
    if (serve != &app && std::ranges::find(names, key) != names.end()) return true;
  }
  return false;
}

void take_file(CLI::App& app, const std::string& file, const std::vector<const CLI::Option*>& decided) {
  const std::vector<CLI::Option*> options = options_of(app);
  std::vector<std::pair<const CLI::Option*, std::string>> seen;
  for (const Setting& setting : read_settings_file(file)) {
    const std::string origin = fmt::format("{}, line {}", file, setting.line);
    const auto found = std::ranges::find_if(
        options, [&](const CLI::Option* option) { return has_name(*option, setting.key); });
    if (found == options.end()) {
      if (serve_has(app, setting.key)) continue;
      throw CLI::ConfigError(
          fmt::format("{}: unknown key \"{}\"{}", origin, setting.key,
                      flag_hint((setting.key.size() == 1 ? "-" : "--") + setting.key, long_names(app), "")),
          CLI::ExitCodes::ConfigError);
    }
    CLI::Option* option = *found;
    const auto same = std::ranges::find(seen, option, [](const auto& entry) { return entry.first; });
    if (same != seen.end()) {
      throw CLI::ConfigError(
          fmt::format("{}: \"{}\" and \"{}\" are the same", origin, same->second, setting.key),
          CLI::ExitCodes::ConfigError);
    }
    seen.emplace_back(option, setting.key);
    if (std::ranges::find(decided, option) == decided.end()) set_option(*option, setting.values, origin);
  }
}

void take_settings(CLI::App& app, std::string file) {
  if (app.parsed() == 0 || !app.get_subcommands().empty()) return;  // another command
  if (file.empty()) file = variable(variable_name(kConfig)).value_or("");
  const std::vector<const CLI::Option*> decided = take_environment(app);
  if (!file.empty()) take_file(app, file, decided);
}

}  // namespace

void add_config_flag(CLI::App& app) {
  // CLI11 calls back in the order in which flags are added, when the command line is read and before it looks
  // at what is missing.
  app.add_option_function<std::string>(
         std::string("--") + std::string(kConfig),
         [&app](const std::string& file) { take_settings(app, file); },
         "YAML file with flags, as in \"port: 8000\". The command line comes before it, and the environment: "
         "CHORALE_PORT")
      ->option_text("FILE")
      ->force_callback();
}

std::vector<std::string> long_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back(name);
  }
  return names;
}

}  // namespace chorale::apps
