// Tokenizer of a Hugging Face checkpoint (tokenizer.json), over the Rust crate `tokenizers`.
// Immutable after loading; all functions are safe to call from many threads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

struct chorale_tokenizer;

namespace chorale::text {

// What may end the tokenizing of a text before its end.
struct EncodeLimits {
  int64_t max_tokens = std::numeric_limits<int64_t>::max();
  // Asked between pieces of the text, each of which takes some milliseconds; empty: never.
  std::function<bool()> is_cancelled = {};
};

enum class EncodeEnd {
  complete,
  too_many,  // it has more than max_tokens
  cancelled,
  unbroken,  // it goes on without a break for longer than is tokenized at once: 1 MiB
};

struct BoundedEncoding {
  std::vector<int32_t> ids;  // up to where it ended
  EncodeEnd end = EncodeEnd::complete;
};

class Tokenizer {
 public:
  // Reads `directory`/tokenizer.json (and, where it exists, tokenizer_config.json for added tokens that only
  // stand there). Throws Error that names the file and the reason.
  static Tokenizer load(const std::filesystem::path& directory);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // `text` must be valid UTF-8. Special tokens written in the text are recognised, as transformers does;
  // add_special_tokens lets the post-processor add its own (Qwen3's adds none).
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const;

  // The same ids, with memory that does not grow with the text, and no more work than the limits allow: a
  // text of which the length alone tells that it has too many tokens is not looked at. A few more than
  // max_tokens are no reason to end when the text ends with them. (Tokenizers of which it is not known where
  // a text may be cut take it whole.)
  BoundedEncoding encode_bounded(std::string_view text, bool add_special_tokens,
                                 const EncodeLimits& limits) const;

  // As encode, but the text of special and other added tokens is text as any other.
  std::vector<int32_t> encode_plain(std::string_view text) const;

  // Ids outside the vocabulary decode to nothing. The result is valid UTF-8: bytes that do not form a
  // character become U+FFFD.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  // The raw bytes that one token stands for, also when they are part of a character; special tokens give
  // their text.
  std::string token_bytes(int32_t id) const;

  // Number of tokens, added ones included: one more than the highest id.
  int64_t vocab_size() const;
  std::optional<int32_t> token_to_id(std::string_view token) const;
  bool is_special(int32_t id) const;

  // The crate's object, for the other wrappers of this folder; lives as long as this.
  const chorale_tokenizer* crate_tokenizer() const;

 private:
  struct Impl;
  BoundedEncoding encode_pieces(std::string_view text, bool control_tokens, const EncodeLimits& limits) const;
  std::vector<int32_t> encode_whole(std::string_view text, bool add_special_tokens) const;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace chorale::text
