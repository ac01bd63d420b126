// A file of settings: YAML, one level of names with a text, a number, a boolean or a list of these.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace chorale::apps {

struct Setting {
  std::string key;                  // as a flag's long name, without dashes before it; "_" has become "-"
  std::vector<std::string> values;  // one, or those of a list, as they are written
  bool is_list = false;
  size_t line = 0;  // of the key, from 1
};

// Throws Error that names file and line: for what is no YAML of this form, a key that is there twice, an
// alias or anchor, a second document, and a file of more than 256 KiB.
std::vector<Setting> read_settings_file(const std::filesystem::path& file);

}  // namespace chorale::apps
