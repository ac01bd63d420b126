// Helpers of the io tests: files, and the text of the Error that a call throws.
#pragma once

#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "base/error.h"
#include "unit/temporary_folder.h"

namespace chorale::io {

using chorale::TemporaryFolder;

inline std::string read_all(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// A safetensors file of this header text, as it stands, and `data_bytes` bytes of data.
inline std::string safetensors(std::string_view header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);  // the tests run on little-endian machines
  return file + std::string(header) + std::string(data_bytes, 'x');
}

// The message of the Error that `call` throws; fails the test when it throws none.
template <typename Call>
std::string error_of(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "expected an Error, found none";
  return "";
}

}  // namespace chorale::io
