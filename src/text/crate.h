// What the wrappers of the crate chorale_text share: conversions at its C interface, and the reading of its
// files. Private to this folder.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include <chorale_text.h>

namespace chorale::text {

// Valid as long as the text.
chorale_text_view view_of(std::string_view text);
std::string_view text_of(chorale_text_view view);

// Copies the bytes and gives them back to the crate.
std::string take(chorale_text_bytes bytes);

// The whole file, but for a byte order mark. Throws Error that names it when it cannot be read or has more
// than max_bytes.
std::string read_file(const std::filesystem::path& path, size_t max_bytes);
// nullopt when there is no such file.
std::optional<std::string> read_file_if_present(const std::filesystem::path& path, size_t max_bytes);

inline constexpr size_t kMaxConfigBytes = size_t{64} << 20;

}  // namespace chorale::text
