#include "text/incremental_detokenizer.h"

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <utility>

namespace chorale::text {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// What may follow a first byte in UTF-8 (The Unicode Standard, table 3-7). length 0: it is no first byte.
struct Sequence {
  size_t length;
  unsigned char second_min;
  unsigned char second_max;
};

Sequence sequence_of(unsigned char first) {
  if (first < 0x80) return {1, 0, 0};
  if (first < 0xC2) return {0, 0, 0};
  if (first < 0xE0) return {2, 0x80, 0xBF};
  if (first == 0xE0) return {3, 0xA0, 0xBF};
  if (first == 0xED) return {3, 0x80, 0x9F};
  if (first < 0xF0) return {3, 0x80, 0xBF};
  if (first == 0xF0) return {4, 0x90, 0xBF};
  if (first < 0xF4) return {4, 0x80, 0xBF};
  if (first == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// How many bytes at the start of `bytes` belong to a character of this sequence.
size_t matching_bytes(std::string_view bytes, const Sequence& sequence) {
  size_t count = 1;
  while (count < sequence.length && count < bytes.size()) {
    const auto byte = static_cast<unsigned char>(bytes[count]);
    const unsigned char min = count == 1 ? sequence.second_min : 0x80;
    const unsigned char max = count == 1 ? sequence.second_max : 0xBF;
    if (byte < min || byte > max) break;
    ++count;
  }
  return count;
}

// Takes from `bytes` all but the beginning of a character at its end. Each longest part of a character that
// cannot be completed becomes one U+FFFD, as in Rust's from_utf8_lossy, which decodes whole texts.
std::string take_complete(std::string& bytes) {
  std::string text;
  size_t position = 0;
  while (position < bytes.size()) {
    const std::string_view rest = std::string_view(bytes).substr(position);
    const Sequence sequence = sequence_of(static_cast<unsigned char>(rest[0]));
    const size_t count = matching_bytes(rest, sequence);
    if (count == sequence.length) {
      text += rest.substr(0, count);
    } else if (count == rest.size() && count < sequence.length) {
      break;  // the next token may complete it
    } else {
      text += kReplacement;
    }
    position += count;
  }
  bytes.erase(0, position);
  return text;
}

}  // namespace

IncrementalDetokenizer::IncrementalDetokenizer(const Tokenizer& tokenizer, bool skip_special_tokens,
                                               std::vector<int32_t> kept)
    : tokenizer_(&tokenizer), skip_special_tokens_(skip_special_tokens), kept_(std::move(kept)) {}

std::string IncrementalDetokenizer::push(int32_t token_id) {
  if (skip_special_tokens_ && tokenizer_->is_special(token_id) &&
      std::ranges::find(kept_, token_id) == kept_.end()) {
    return {};
  }
  pending_ += tokenizer_->token_bytes(token_id);
  return take_complete(pending_);
}

std::string IncrementalDetokenizer::finish() {
  if (pending_.empty()) return {};
  pending_.clear();
  return std::string(kReplacement);  // what is pending is the beginning of one character
}

}  // namespace chorale::text
