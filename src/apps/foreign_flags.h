// Flags as llama.cpp, vLLM and SGLang call them: which are taken, and what is said of the rest.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace chorale::apps {

// The flag with its other names, as CLI11 takes them: "--model-path,--model,-m". Those mean exactly the same
// in the programs that they come from, and the help does not list them.
std::string with_aliases(std::string_view flag);

// Whether "--model" or "-m" is such a name.
bool is_alias(std::string_view name);

// What is said of a flag, such as "-ctk", that a command with these flags (long names without dashes) does
// not have:
// "; did you mean --kv-cache-dtype?", ", which is not needed: ...", or nothing. `dashes` is what a name is
// told with.
std::string flag_hint(std::string_view flag, std::span<const std::string> flags,
                      std::string_view dashes = "--");

}  // namespace chorale::apps
