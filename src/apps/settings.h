// Flags that are not on the command line: from the environment, and from a file.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}  // namespace CLI

namespace chorale::apps {

// Adds --config FILE to a subcommand, before its other flags. Once the command line is read, a flag that is
// not there has the value of its variable, CHORALE_ with its name (--tp-size: CHORALE_TP_SIZE), else that of
// the file's key of its name, else its default. CHORALE_CONFIG names the file, too. What is wrong with a
// value is said as for the flag, after the variable or file and line that it comes from. A key that is no
// flag of the command is refused, but for those of `serve` in the file of another command, so that all may
// share one.
void add_config_flag(CLI::App& app);

// The long names of the flags of a command, without dashes.
std::vector<std::string> long_names(const CLI::App& app);

}  // namespace chorale::apps
