// Files that stand where another one should: what downloads leave behind, and formats of other programs.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace chorale::io {

// What a file that begins with these bytes is, and what to do, as a sentence; empty: nothing that is known
// here. Looks at no more than the first few hundred bytes.
std::string_view foreign_file(std::span<const std::byte> bytes);

// Throws Error that names `source` for such a file.
void refuse_foreign_file(std::span<const std::byte> bytes, std::string_view source);

}  // namespace chorale::io
