// The command line: subcommands, their errors, and the exit status.
//   0  done
//   1  unusable files, or a failure while running
//   2  a mistake in the command line
//   130  interrupted, where a command ends its work in order (prune)
#include <algorithm>
#include <array>
#include <cstdio>
#include <exception>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "apps/command.h"
#include "apps/foreign_flags.h"
#include "apps/settings.h"
#include "apps/suggest.h"
#include "base/error.h"
#include "base/log.h"

namespace chorale::apps {
namespace {

constexpr int kFailure = 1;
constexpr int kUsageError = 2;

void print_error(const std::string& message) {
  log::flush();
  if (log::format() == log::Format::json) {
    log::write(log::Level::critical, message);
    log::flush();
  } else {
    fmt::print(stderr, "chorale: {}\n", log::escape(message));
  }
}

std::vector<std::string> command_names(const CLI::App& root) {
  std::vector<std::string> names;
  for (const CLI::App* app : root.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(app->get_name());
  return names;
}

std::string did_you_mean(const std::optional<std::string>& suggestion, const char* prefix) {
  return suggestion ? fmt::format("; did you mean {}{}?", prefix, *suggestion) : "";
}

// The command that was recognised, of a group of commands the innermost; the root when none was.
const CLI::App& chosen_command(const CLI::App& root) {
  const CLI::App* chosen = &root;
  while (!chosen->get_subcommands().empty()) chosen = chosen->get_subcommands().front();
  return *chosen;
}

// "chorale", "chorale serve"
std::string full_name(const CLI::App& command) {
  const CLI::App* parent = command.get_parent();
  return parent != nullptr ? full_name(*parent) + " " + command.get_name() : command.get_name();
}

// How often a flag was given, and how many values it had, in other words than CLI11's.
std::string in_plain_words(const std::string& text) {
  if (const size_t at = text.find(": At Most 1 required but received "); at != std::string::npos)
    return text.substr(0, at) + ": it was given more than once";
  const size_t at = text.find(": 1 required ");
  return at != std::string::npos && text.ends_with(" missing") ? text.substr(0, at) + ": its value is missing"
                                                               : text;
}

// What is wrong with the command line, in one line.
std::string explain(const CLI::App& root, const CLI::App& command, const CLI::ParseError& error) {
  const std::vector<std::string> extras = root.remaining(true);
  const auto is_flag = [](const std::string& text) { return text.size() > 1 && text[0] == '-'; };
  const std::vector<std::string> choices = command_names(command);
  if (!choices.empty() && !extras.empty() && !is_flag(extras.front())) {
    const auto suggestion = nearest(extras.front(), choices);
    return fmt::format("unknown command \"{}\"{}", extras.front(), did_you_mean(suggestion, ""));
  }
  if (const auto flag = std::find_if(extras.begin(), extras.end(), is_flag); flag != extras.end()) {
    const std::string name = flag->substr(0, flag->find('='));
    const std::vector<std::string> flags = long_names(command);
    return fmt::format("unknown flag {}{}", name, flag_hint(name, flags));
  }
  if (!extras.empty()) return fmt::format("unexpected argument \"{}\"", extras.front());
  if (&command == &root) return fmt::format("a command is required: {}", fmt::join(choices, ", "));
  return in_plain_words(error.what());
}

// The text in lines that end before kHelpWidth when they begin at kHelpColumn.
std::string wrapped(std::string_view text) {
  std::string out;
  size_t length = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find(' '), text.size());
    const bool fits = length == 0 || length + 1 + end <= kHelpWidth - kHelpColumn;
    if (length > 0) out += fits ? ' ' : '\n';
    length = fits && length > 0 ? length + 1 + end : end;
    out += text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

// CLI11's help in lines of bounded length, with one blank line between groups, not two.
class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter() {
    column_width(kHelpColumn);
    label("SUBCOMMAND", "COMMAND");
  }
  std::string make_option_name(const CLI::Option* option, bool is_positional) const override {
    std::istringstream all(CLI::Formatter::make_option_name(option, is_positional));
    std::string names;
    for (std::string name; std::getline(all, name, ',');) {
      if (!is_alias(name.substr(0, name.find('{')))) names += (names.empty() ? "" : ",") + name;
    }
    return names;
  }
  std::string make_option_desc(const CLI::Option* option) const override {
    return wrapped(CLI::Formatter::make_option_desc(option));
  }
  std::string make_subcommand(const CLI::App* command) const override {
    std::ostringstream out;
    CLI::detail::format_help(out, command->get_name(), wrapped(command->get_description()), kHelpColumn);
    return out.str();
  }
  std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override {
    std::string text = CLI::Formatter::make_help(app, std::move(name), mode);
    for (size_t at = 0; (at = text.find("\n\n\n", at)) != std::string::npos;) text.erase(at, 1);
    return text;
  }
};

// "help COMMAND" asks for what "COMMAND --help" shows.
void take_help_command(std::vector<std::string>& arguments, const CLI::App& root) {
  if (arguments.empty() || arguments.front() != "help") return;
  arguments.erase(arguments.begin());
  const CLI::App* command = &root;
  for (const std::string& name : arguments) {
    const auto known = command_names(*command);
    if (std::ranges::find(known, name) == known.end()) return;  // which is told of as any other mistake
    command = command->get_subcommand(name);
  }
  arguments.emplace_back("--help");
}

// In the order in which CLI11 takes them: the last one first. It would give "--name=" the next argument as
// its value, where the empty text is meant.
std::vector<std::string> reversed_arguments(int argc, char** argv, const CLI::App& root) {
  std::vector<std::string> arguments;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    const bool is_empty = argument.starts_with("--") && argument.find('=') == argument.size() - 1;
    if (is_empty) argument.pop_back();
    arguments.push_back(std::move(argument));
    if (is_empty) arguments.emplace_back();
  }
  take_help_command(arguments, root);
  std::reverse(arguments.begin(), arguments.end());
  return arguments;
}

int usage_error(const std::string& message, const CLI::App& command) {
  print_error(message);
  if (log::format() == log::Format::text)
    fmt::print(stderr, "{} --help shows what there is\n", full_name(command));
  return kUsageError;
}

// Messages about a flag begin with its name. Where that flag names a file or an address, what is wrong is
// most likely there.
bool is_about_a_flag(std::string_view message) {
  constexpr auto kElsewhere = std::to_array<std::string_view>(
      {"--init-expert-location", "--output", "--output-file", "--html", "--trace", "--tokenizer", "--chat",
       "--host", "--port", "--flush-cache", "--model-path", "--machine"});
  constexpr auto kFiles =
      std::to_array<std::string_view>({"--report", "--rate", "--chat-template", "--calibration-file",
                                       "--heldout-file", "--dataset-path", "--text-file", "--prompt-file"});
  if (!message.starts_with("--")) return false;
  const std::string_view flag = message.substr(0, message.find_first_of(": "));
  if (std::ranges::find(kElsewhere, flag) != kElsewhere.end()) return false;
  const bool names_a_file = message.substr(flag.size()).starts_with(' ');
  return !(names_a_file && std::ranges::find(kFiles, flag) != kFiles.end());
}

int run(int argc, char** argv) {
  CLI::App root("Chorale: an inference server for the Qwen3-MoE family", "chorale");
  root.set_version_flag("--version", std::string("chorale ") + CHORALE_VERSION);
  root.formatter(std::make_shared<HelpFormatter>());
  root.require_subcommand(1);
  const std::vector<Command> commands = {add_serve(root, CHORALE_VERSION),
                                         add_chat(root),
                                         add_generate(root),
                                         add_tokenize(root),
                                         add_check(root),
                                         add_eval(root),
                                         add_logits(root),
                                         add_plan(root),
                                         add_calibrate(root),
                                         add_compare(root, CHORALE_VERSION),
                                         add_simulate(root, CHORALE_VERSION),
                                         add_prune(root, CHORALE_VERSION),
                                         add_bench(root, CHORALE_VERSION)};
  root.footer("chorale COMMAND --help shows the flags of a command.");

  try {
    root.parse(reversed_arguments(argc, argv, root));
  } catch (const CLI::Success& success) {  // --help, --version
    return root.exit(success);
  } catch (const CLI::ParseError& error) {
    const CLI::App& command = chosen_command(root);
    return usage_error(explain(root, command, error), command);
  } catch (const Error& error) {
    if (!is_about_a_flag(error.what())) throw;
    return usage_error(error.what(), chosen_command(root));
  }
  for (const Command& command : commands) {
    if (!command.app->parsed()) continue;
    try {
      return command.run();
    } catch (const UsageError& error) {
      return usage_error(error.what(), chosen_command(root));
    } catch (const Error& error) {
      if (!is_about_a_flag(error.what())) throw;
      return usage_error(error.what(), chosen_command(root));
    }
  }
  return kUsageError;
}

}  // namespace
}  // namespace chorale::apps

// The one place where exceptions end.
int main(int argc, char** argv) {
  using namespace chorale::apps;
  try {
    const int status = run(argc, argv);
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
      print_error("standard output could not be written");
      return kFailure;
    }
    return status;
  } catch (const chorale::Error& error) {
    print_error(error.what());
  } catch (const std::bad_alloc&) {
    print_error("there is not enough memory");
  } catch (const std::exception& error) {
    print_error(fmt::format("unexpected failure: {}", error.what()));
  }
  return kFailure;
}
