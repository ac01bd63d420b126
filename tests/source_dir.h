// Where the repository lies, for tests that read its files.
#pragma once

#include <filesystem>

namespace chorale {

std::filesystem::path source_dir();

}  // namespace chorale
