#include "server/generation/special_texts.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace chorale::server {
namespace {

// U+FDD0, which is no character and so nobody's, and then U+E000 and up: which of the texts.
constexpr std::string_view kMark = "\xEF\xB7\x90";
constexpr size_t kFirstCode = 0xE000;
constexpr size_t kMaxTexts = 0x1900;  // to the end of the private characters
constexpr size_t kCodeBytes = 3;

std::string code_of(size_t index) {
  const size_t code = kFirstCode + index;
  return {static_cast<char>(0xE0U | code >> 12U), static_cast<char>(0x80U | (code >> 6U & 0x3FU)),
          static_cast<char>(0x80U | (code & 0x3FU))};
}

size_t index_of(std::string_view code) {
  const auto byte = [&](size_t at) { return static_cast<size_t>(static_cast<unsigned char>(code[at])); };
  return ((byte(0) & 0x0FU) << 12U | (byte(1) & 0x3FU) << 6U | (byte(2) & 0x3FU)) - kFirstCode;
}

}  // namespace

SpecialTexts::SpecialTexts(const text::Tokenizer& tokenizer) {
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.is_special(id)) texts_.push_back(tokenizer.token_bytes(id));
  }
  std::erase(texts_, "");
  std::ranges::sort(texts_, [](const auto& a, const auto& b) { return a.size() > b.size(); });
  texts_.insert(texts_.begin(), std::string(kMark));
  texts_.resize(std::min(texts_.size(), kMaxTexts));
}

std::string SpecialTexts::escape(std::string_view text) const {
  std::string out;
  std::vector<size_t> next(texts_.size(), 0);  // where each is found next
  for (size_t at = 0;;) {
    size_t first = std::string_view::npos;
    size_t which = 0;
    for (size_t i = 0; i < texts_.size(); ++i) {
      if (next[i] != std::string_view::npos && next[i] <= at) next[i] = text.find(texts_[i], at);
      if (next[i] < first) {
        first = next[i];
        which = i;
      }
    }
    out += text.substr(at, first - at);
    if (first == std::string_view::npos) return out;
    out += kMark;
    out += code_of(which);
    at = first + texts_[which].size();
  }
}

void SpecialTexts::escape_strings(Json& value) const {
  if (value.is_string()) {
    value = escape(value.get_ref<const std::string&>());
  } else if (value.is_structured()) {
    for (Json& one : value) escape_strings(one);
    if (value.is_object()) escape_names(value.get_ref<Json::object_t&>());
  }
}

void SpecialTexts::escape_names(Json::object_t& object) const {
  const auto is_special = [this](const auto& member) { return escape(member.first) != member.first; };
  if (std::ranges::none_of(object, is_special)) return;
  Json::object_t escaped;
  escaped.reserve(object.size());
  // Different names stay different, so none has to be looked for.
  for (auto& [name, value] : object) escaped.emplace_back(escape(name), std::move(value));
  object = std::move(escaped);
}

std::vector<SpecialTexts::Part> SpecialTexts::split(std::string_view escaped) const {
  std::vector<Part> parts;
  for (;;) {
    const size_t mark = escaped.find(kMark);
    if (mark != 0 && !escaped.empty()) parts.push_back({escaped.substr(0, mark), false});
    if (mark == std::string_view::npos) return parts;
    escaped.remove_prefix(mark + kMark.size());
    const size_t index = escaped.size() >= kCodeBytes ? index_of(escaped) : texts_.size();
    if (index >= texts_.size()) continue;  // a mark of the template's own, which means nothing
    parts.push_back({texts_[index], true});
    escaped.remove_prefix(kCodeBytes);
  }
}

}  // namespace chorale::server
