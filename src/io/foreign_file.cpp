#include "io/foreign_file.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "base/error.h"

namespace chorale::io {
namespace {

constexpr size_t kLookedAt = 512;

// How pages of sites begin, and how what their servers say in place of a file does. No file of a checkpoint
// begins so, chat templates included; nor do safetensors files, whose first bytes are a length of any value
// up to 100,000,000.
constexpr std::array kPages = {"<!doctype", "<html", "<head", "<body", "<!--", "<meta", "<title", "<script"};
constexpr std::array kAnswers = {"<?xml",
                                 "<error>",
                                 "{\"error\"",
                                 "entry not found",
                                 "not found",
                                 "404: not found",
                                 "404 not found",
                                 "repository not found",
                                 "invalid username or password",
                                 "invalid credentials",
                                 "unauthorized",
                                 "forbidden",
                                 "access denied",
                                 "access to model",
                                 "access to this",
                                 "internal error",
                                 "too many requests"};

template <size_t N>
bool starts_with_any(std::string_view text, const std::array<const char*, N>& beginnings) {
  return std::ranges::any_of(beginnings, [&](const char* one) { return text.starts_with(one); });
}

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
  if (text.starts_with("version https://git-lfs.github.com/spec/") ||
      text.starts_with("version https://hawser.github.com/spec/")) {
    return "this is a pointer of Git LFS, not the file itself; fetch it with \"git lfs pull\" in its folder, "
           "or "
           "download the model with \"hf download\"";
  }
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
  const std::string start = lower(text.substr(0, 32));
  if (starts_with_any(start, kPages)) {
    return "this is an HTML page, not the file: the download has saved a page of the site, as for a link "
           "that "
           "needs a login or /resolve/ in place of /blob/; download the model with \"hf download\"";
  }
  if (starts_with_any(start, kAnswers)) {
    return "this is what a server has said in place of the file, as for a link that does not exist or "
           "needs a login; download the model with \"hf download\"";
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
