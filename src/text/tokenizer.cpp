#include "text/tokenizer.h"

#include <iterator>
#include <memory>
#include <utility>

#include "base/error.h"
#include "text/crate.h"

namespace chorale::text {
namespace {

constexpr size_t kMaxTokenizerBytes = size_t{512} << 20;

struct Destroy {
  void operator()(chorale_tokenizer* tokenizer) const { chorale_tokenizer_destroy(tokenizer); }
};
using Handle = std::unique_ptr<chorale_tokenizer, Destroy>;

// Gives the crate its array back.
class IdsOwner {
 public:
  explicit IdsOwner(chorale_text_ids ids) : ids_(ids) {}
  ~IdsOwner() { chorale_text_ids_free(ids_); }
  IdsOwner(const IdsOwner&) = delete;
  IdsOwner& operator=(const IdsOwner&) = delete;

 private:
  chorale_text_ids ids_;
};

// Every id that is not a token, negative ones included, is one that the crate does not know either.
uint32_t to_crate(int32_t id) {
  return static_cast<uint32_t>(id);
}

}  // namespace

struct Tokenizer::Impl {
  Handle handle;
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(const std::filesystem::path& directory) {
  const std::string tokenizer_json = read_file(directory / "tokenizer.json", kMaxTokenizerBytes);
  const std::optional<std::string> config =
      read_file_if_present(directory / "tokenizer_config.json", kMaxConfigBytes);
  const chorale_text_view config_view = view_of(config ? std::string_view(*config) : std::string_view());

  chorale_tokenizer* tokenizer = nullptr;
  chorale_text_bytes error{};
  if (chorale_tokenizer_create(view_of(tokenizer_json), config ? &config_view : nullptr, &tokenizer,
                               &error) != CHORALE_TEXT_OK) {
    throw_error("{}", (directory / take(error)).string());  // the message begins with the file's name
  }
  return Tokenizer(std::make_unique<Impl>(Impl{Handle(tokenizer)}));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  if (add_special_tokens && chorale_tokenizer_adds_special_tokens(impl_->handle.get())) {
    return encode_whole(text, true);
  }
  BoundedEncoding encoding = encode_pieces(text, true, {});
  if (encoding.end == EncodeEnd::unbroken) return encode_whole(text, false);
  return std::move(encoding.ids);
}

std::vector<int32_t> Tokenizer::encode_plain(std::string_view text) const {
  BoundedEncoding encoding = encode_pieces(text, false, {});
  if (encoding.end == EncodeEnd::unbroken) throw_error("The text goes on for 1 MiB without a break");
  return std::move(encoding.ids);
}

BoundedEncoding Tokenizer::encode_bounded(std::string_view text, bool add_special_tokens,
                                          const EncodeLimits& limits) const {
  const chorale_tokenizer* tokenizer = impl_->handle.get();
  if (chorale_tokenizer_fewest_tokens(tokenizer, text.size()) > static_cast<uint64_t>(limits.max_tokens)) {
    return {{}, EncodeEnd::too_many};
  }
  if (add_special_tokens && chorale_tokenizer_adds_special_tokens(tokenizer)) {
    return {encode_whole(text, true), EncodeEnd::complete};
  }
  return encode_pieces(text, true, limits);
}

BoundedEncoding Tokenizer::encode_pieces(std::string_view text, bool control_tokens,
                                         const EncodeLimits& limits) const {
  BoundedEncoding encoding;
  while (!text.empty()) {
    if (limits.is_cancelled && limits.is_cancelled()) {
      encoding.end = EncodeEnd::cancelled;
      return encoding;
    }
    if (std::ssize(encoding.ids) > limits.max_tokens) {
      encoding.end = EncodeEnd::too_many;
      return encoding;
    }
    chorale_text_ids ids{};
    size_t size = 0;
    chorale_text_bytes error{};
    if (chorale_tokenizer_encode_piece(impl_->handle.get(), view_of(text), control_tokens, &ids, &size,
                                       &error) != CHORALE_TEXT_OK) {
      throw_error("The text cannot be tokenized: {}", take(error));
    }
    const IdsOwner owner(ids);
    if (size == 0) {
      encoding.end = EncodeEnd::unbroken;
      return encoding;
    }
    encoding.ids.insert(encoding.ids.end(), ids.data, ids.data + ids.size);
    text.remove_prefix(size);
  }
  return encoding;
}

std::vector<int32_t> Tokenizer::encode_whole(std::string_view text, bool add_special_tokens) const {
  chorale_text_ids ids{};
  chorale_text_bytes error{};
  if (chorale_tokenizer_encode(impl_->handle.get(), view_of(text), add_special_tokens, &ids, &error) !=
      CHORALE_TEXT_OK) {
    throw_error("The text cannot be tokenized: {}", take(error));
  }
  const IdsOwner owner(ids);
  return std::vector<int32_t>(ids.data, ids.data + ids.size);
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  const auto* crate_ids = reinterpret_cast<const uint32_t*>(ids.data());  // as to_crate, for all
  chorale_text_bytes text{};
  chorale_text_bytes error{};
  if (chorale_tokenizer_decode(impl_->handle.get(), crate_ids, ids.size(), skip_special_tokens, &text,
                               &error) != CHORALE_TEXT_OK) {
    throw_error("The tokens cannot be decoded: {}", take(error));
  }
  return take(text);
}

std::string Tokenizer::token_bytes(int32_t id) const {
  return std::string(text_of(chorale_tokenizer_token_bytes(impl_->handle.get(), to_crate(id))));
}

int64_t Tokenizer::vocab_size() const {
  return chorale_tokenizer_vocab_size(impl_->handle.get());
}

std::optional<int32_t> Tokenizer::token_to_id(std::string_view token) const {
  const int64_t id = chorale_tokenizer_token_to_id(impl_->handle.get(), view_of(token));
  if (id < 0) return std::nullopt;
  return static_cast<int32_t>(id);
}

bool Tokenizer::is_special(int32_t id) const {
  return chorale_tokenizer_is_special(impl_->handle.get(), to_crate(id));
}

const chorale_tokenizer* Tokenizer::crate_tokenizer() const {
  return impl_->handle.get();
}

}  // namespace chorale::text
