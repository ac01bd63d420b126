// What the text tests share: the two tokenizers and the reference results.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ostream>
#include <stdexcept>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "source_dir.h"
#include "text/tokenizer.h"
#include "unit/temporary_folder.h"

namespace chorale::text {

// Objects keep the order of their keys, which a rendered template shows.
using Json = nlohmann::ordered_json;

inline const std::filesystem::path kSource = source_dir();
inline const std::filesystem::path kBundledModel = kSource / "models/tales-moe";
inline const std::filesystem::path kQwen3Tokenizer = kSource / ".cache/qwen3-tokenizer";

inline Json read_golden(std::string_view name) {
  std::ifstream file(kSource / "tests/golden" / name);
  if (!file) throw std::runtime_error("cannot read tests/golden/" + std::string(name));
  return Json::parse(file);
}

inline const Tokenizer& bundled_tokenizer() {
  static const Tokenizer tokenizer = Tokenizer::load(kBundledModel);
  return tokenizer;
}

// The real one, which the repository does not hold.
inline const Tokenizer& qwen3_tokenizer() {
  if (!std::filesystem::exists(kQwen3Tokenizer / "tokenizer.json")) {
    throw std::runtime_error("the Qwen3 tokenizer is not there; run scripts/fetch_qwen3_tokenizer.sh");
  }
  static const Tokenizer tokenizer = Tokenizer::load(kQwen3Tokenizer);
  return tokenizer;
}

// A tokenizer and its reference results, by which tests are parameterized.
struct Reference {
  const char* name;
  const Tokenizer& (*tokenizer)();
  const char* golden;
};
inline void PrintTo(const Reference& reference, std::ostream* out) {
  *out << reference.name;
}
inline constexpr Reference kReferences[] = {
    {"Bundled", bundled_tokenizer, "demo_tokenizer_golden.json"},
    {"Qwen3", qwen3_tokenizer, "qwen3_tokenizer_golden.json"},
};

// Whether the bytes are whole characters of UTF-8, none too long, no surrogates.
inline bool is_valid_utf8(std::string_view bytes) {
  for (size_t i = 0; i < bytes.size();) {
    const auto first = static_cast<unsigned char>(bytes[i]);
    const size_t length = first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    if ((first >= 0x80 && first < 0xC2) || first > 0xF4 || length > bytes.size() - i) return false;
    uint32_t code = length == 1 ? first : first & (0xFFU >> (length + 1));
    for (size_t k = 1; k < length; ++k) {
      const auto next = static_cast<unsigned char>(bytes[i + k]);
      if ((next & 0xC0U) != 0x80U) return false;
      code = code << 6U | (next & 0x3FU);
    }
    constexpr uint32_t kLowest[] = {0, 0, 0x80, 0x800, 0x10000};
    if (code < kLowest[length] || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return false;
    i += length;
  }
  return true;
}

}  // namespace chorale::text
