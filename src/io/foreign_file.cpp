#include "io/foreign_file.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"

namespace chorale::io {
namespace {

constexpr size_t kLookedAt = 512;

std::string lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

}  // namespace

std::string_view foreign_file(std::span<const std::byte> bytes) {
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), std::min(bytes.size(), kLookedAt));
  if (text.starts_with("GGUF")) {
    return "this is a GGUF file, the format of llama.cpp; Chorale reads the safetensors files of the "
           "original "
           "checkpoint";
  }
  if (text.starts_with("version https://git-lfs.github.com/spec/")) {
    return "this is a pointer of Git LFS, not the file itself; fetch it with \"git lfs pull\" in its folder, "
           "or "
           "download the model with \"hf download\"";
  }
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
  const std::string start = lower(text.substr(0, 16));
  if (start.starts_with("<!doctype html") || start.starts_with("<html") || start.starts_with("<head")) {
    return "this is an HTML page, not the file: the download has saved a page of the site, as for a link "
           "that "
           "needs a login or /resolve/ in place of /blob/; download the model with \"hf download\"";
  }
  if (text.starts_with("PK\x03\x04")) {
    return "this is a zip archive, as PyTorch's files are; Chorale reads safetensors files";
  }
  return {};
}

void refuse_foreign_file(std::span<const std::byte> bytes, std::string_view source) {
  if (const std::string_view what = foreign_file(bytes); !what.empty()) throw_error("{}: {}", source, what);
}

}  // namespace chorale::io
