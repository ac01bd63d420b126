// What a subcommand is to main(): flags registered with CLI11, and a function that runs after parsing.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "base/error.h"
#include "engine/loaded_model.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace chorale::apps {

// A mistake in the command line that shows once its flags are read. So do Errors whose message begins with a
// flag.
class UsageError : public Error {
 public:
  using Error::Error;
};

// The references that `run` holds to its own flags live as long as it does. run() returns the exit status; it
// throws Error for unusable files or flags.
struct Command {
  CLI::App* app = nullptr;
  std::function<int()> run;
};

Command add_serve(CLI::App& root, const std::string& version);  // for /metrics
Command add_chat(CLI::App& root);
Command add_generate(CLI::App& root);
Command add_logits(CLI::App& root);
Command add_eval(CLI::App& root);
Command add_check(CLI::App& root);
Command add_tokenize(CLI::App& root);
Command add_plan(CLI::App& root);
Command add_calibrate(CLI::App& root);
Command add_prune(CLI::App& root, const std::string& version);     // likewise
Command add_compare(CLI::App& root, const std::string& version);   // the version goes into the report
Command add_simulate(CLI::App& root, const std::string& version);  // likewise
Command add_bench(CLI::App& root, const std::string& version);     // likewise
Command add_bench_serve(CLI::App& bench, const std::string& version);

// Groups of the subcommands in the help.
inline constexpr const char* kServing = "Serving";
inline constexpr const char* kOffline = "Without a server";

// Where the descriptions start in the help, and where its lines end.
inline constexpr size_t kHelpColumn = 32;
inline constexpr size_t kHelpWidth = 80;

// Flags that several subcommands share. Each registers its flags under a group of the help and binds them to
// the options given, which must outlive the app; the values there are the defaults.
enum class ModelArgument { required, optional };  // optional: a flag alone, which may be absent
// Model: the path, which may stand by itself or after --model-path; formats; context.
void add_model_flags(CLI::App& app, engine::LoadOptions& options,
                     ModelArgument argument = ModelArgument::required);
void add_execution_flags(CLI::App& app, engine::LoadOptions& options);  // Execution: threads, instruction set
void add_parallel_flags(CLI::App& app, engine::LoadOptions& options);   // Parallel strategy
// The path and its revision alone, of commands that do not take the rest. Once the flags are read the path is
// that of a folder, if it is a name, too; or Error is thrown.
void add_model_path(CLI::App& app, std::filesystem::path& path, ModelArgument argument);
// --chat-template; empty: the model's own.
void add_chat_template_flag(CLI::App& app, std::filesystem::path& file);
// --revision by itself.
std::shared_ptr<const std::string> add_revision_flag(CLI::App& app);
CLI::Option* add_chunk_flag(CLI::App& app, engine::LoadOptions& options);
CLI::Option* add_log_level_flag(CLI::App& app, std::string& level);
CLI::Option* add_json_flag(CLI::App& app, bool& json);

// The check of a flag that takes a number from `least` to `most`. CLI::Range lets "nan" through, which is
// neither below nor above anything.
std::function<std::string(const std::string&)> number_in(double least, double most);

}  // namespace chorale::apps
