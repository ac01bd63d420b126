#include "text/crate.h"

#include <cstdint>
#include <fstream>
#include <memory>
#include <system_error>

#include "base/error.h"

namespace chorale::text {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

}  // namespace

chorale_text_view view_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string_view text_of(chorale_text_view view) {
  return {reinterpret_cast<const char*>(view.data), view.size};
}

std::string take(chorale_text_bytes bytes) {
  const auto free_bytes = [&](const uint8_t*) { chorale_text_bytes_free(bytes); };
  const std::unique_ptr<uint8_t, decltype(free_bytes)> owner(bytes.data, free_bytes);
  return std::string(text_of({bytes.data, bytes.size}));
}

std::string read_file(const std::filesystem::path& path, size_t max_bytes) {
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error) throw_error("{}: {}", path.string(), error.message());
  if (size > max_bytes) {
    throw_error("{}: expected at most {} bytes, found {}", path.string(), max_bytes, size);
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(static_cast<size_t>(size), '\0');
  file.read(text.data(), static_cast<std::streamsize>(size));
  if (!file) throw_error("{}: cannot read at byte {}", path.string(), file.gcount());
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
  return text;
}

std::optional<std::string> read_file_if_present(const std::filesystem::path& path, size_t max_bytes) {
  std::error_code error;
  if (std::filesystem::status(path, error).type() == std::filesystem::file_type::not_found)
    return std::nullopt;
  return read_file(path, max_bytes);
}

}  // namespace chorale::text
