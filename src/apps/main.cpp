// The command line: subcommands, their errors, and the exit status.
//   0  done
//   1  unusable files, or a failure while running
//   2  a mistake in the command line
//   130  interrupted, where a command ends its work in order (prune)
#include <algorithm>
#include <cstdio>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "apps/command.h"
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

std::vector<std::string> flag_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back(name);
  }
  return names;
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
    const size_t dashes = std::min(name.find_first_not_of('-'), name.size());
    const auto suggestion = nearest(name.substr(dashes), flag_names(command));
    return fmt::format("unknown flag {}{}", name, did_you_mean(suggestion, "--"));
  }
  if (!extras.empty()) return fmt::format("unexpected argument \"{}\"", extras.front());
  if (&command == &root) return fmt::format("a command is required: {}", fmt::join(choices, ", "));
  return error.what();
}

// CLI11's help with one blank line between groups, not two.
class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter() {
    column_width(kHelpColumn);
    label("SUBCOMMAND", "COMMAND");
  }
  std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override {
    std::string text = CLI::Formatter::make_help(app, std::move(name), mode);
    for (size_t at = 0; (at = text.find("\n\n\n", at)) != std::string::npos;) text.erase(at, 1);
    return text;
  }
};

// The flags of `serve` by group, for the help of the program itself.
std::string serve_flags(const CLI::App& serve) {
  return "Flags of chorale serve:\n" + HelpFormatter().make_groups(&serve, CLI::AppFormatMode::Sub) +
         "\nchorale COMMAND --help shows the flags of each command.";
}

// In the order in which CLI11 takes them: the last one first. It would give "--name=" the next argument as
// its value, where the empty text is meant.
std::vector<std::string> reversed_arguments(int argc, char** argv) {
  std::vector<std::string> arguments;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    const bool is_empty = argument.starts_with("--") && argument.find('=') == argument.size() - 1;
    if (is_empty) argument.pop_back();
    arguments.push_back(std::move(argument));
    if (is_empty) arguments.emplace_back();
  }
  std::reverse(arguments.begin(), arguments.end());
  return arguments;
}

int run(int argc, char** argv) {
  CLI::App root("Chorale: an inference server for the Qwen3-MoE family", "chorale");
  root.set_version_flag("--version", std::string("chorale ") + CHORALE_VERSION);
  root.formatter(std::make_shared<HelpFormatter>());
  root.require_subcommand(1);
  const std::vector<Command> commands = {add_serve(root, CHORALE_VERSION),
                                         add_generate(root),
                                         add_tokenize(root),
                                         add_check(root),
                                         add_eval(root),
                                         add_logits(root),
                                         add_plan(root),
                                         add_compare(root, CHORALE_VERSION),
                                         add_prune(root, CHORALE_VERSION),
                                         add_bench(root, CHORALE_VERSION)};
  root.footer([&] { return serve_flags(*commands.front().app); });

  try {
    root.parse(reversed_arguments(argc, argv));
  } catch (const CLI::Success& success) {  // --help, --version
    return root.exit(success);
  } catch (const CLI::ParseError& error) {
    const CLI::App& command = chosen_command(root);
    print_error(explain(root, command, error));
    fmt::print(stderr, "{} --help shows what there is\n", full_name(command));
    return kUsageError;
  }
  for (const Command& command : commands) {
    if (command.app->parsed()) return command.run();
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
