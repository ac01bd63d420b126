#include "text/grammar.h"

#include <list>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "text/crate.h"
#include "text/tokenizer.h"

namespace chorale::text {
namespace {

struct Destroy {
  void operator()(chorale_grammar_environment* environment) const {
    chorale_grammar_environment_destroy(environment);
  }
  void operator()(chorale_grammar* grammar) const { chorale_grammar_destroy(grammar); }
  void operator()(chorale_grammar_matcher* matcher) const { chorale_grammar_matcher_destroy(matcher); }
};
template <typename T>
using Handle = std::unique_ptr<T, Destroy>;

int32_t to_crate(GrammarKind kind) {
  switch (kind) {
    case GrammarKind::kJsonSchema:
      return CHORALE_GRAMMAR_JSON_SCHEMA;
    case GrammarKind::kJsonObject:
      return CHORALE_GRAMMAR_JSON_OBJECT;
    case GrammarKind::kRegex:
      return CHORALE_GRAMMAR_REGEX;
    case GrammarKind::kEbnf:
      return CHORALE_GRAMMAR_EBNF;
    case GrammarKind::kChoice:
      return CHORALE_GRAMMAR_CHOICE;
    case GrammarKind::kLark:
      return CHORALE_GRAMMAR_LARK;
    case GrammarKind::kLenientJsonSchema:
      return CHORALE_GRAMMAR_LENIENT_JSON_SCHEMA;
    case GrammarKind::kWritten:
      return CHORALE_GRAMMAR_WRITTEN;
  }
  CHORALE_CHECK(false, "grammar kind {}", static_cast<int>(kind));
}

RequestError compile_error(std::string_view reason) {
  return RequestError{.kind = RequestError::Kind::invalid,
                      .message = fmt::format("The grammar cannot be used: {}", reason)};
}

RequestError matcher_error(std::string_view reason) {
  return RequestError{.kind = RequestError::Kind::invalid,
                      .message = fmt::format("The text cannot go on in its grammar: {}", reason)};
}

}  // namespace

std::optional<std::string> unsupported_pattern(std::string_view pattern) {
  chorale_text_bytes error{};
  if (chorale_grammar_check_pattern(view_of(pattern), &error) == CHORALE_TEXT_OK) return std::nullopt;
  return take(error);
}

// ---- one grammar

struct Grammar::Impl {
  Handle<chorale_grammar> handle;
};

Grammar::Grammar(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Grammar::~Grammar() = default;

struct GrammarMatcher::Impl {
  std::shared_ptr<const Grammar> grammar;
  Handle<chorale_grammar_matcher> handle;
  std::string error;  // why there is no handle

  // Whether the text may end, and whether it must.
  std::pair<bool, bool> state() const {
    bool accepting = false;
    bool finished = false;
    if (!handle) return {accepting, finished};
    chorale_text_bytes reason{};
    if (chorale_grammar_matcher_state(handle.get(), &accepting, &finished, &reason) != CHORALE_TEXT_OK) {
      take(reason);
      return {false, false};
    }
    return {accepting, finished};
  }
};

GrammarMatcher::GrammarMatcher(std::shared_ptr<const Grammar> grammar) : impl_(std::make_unique<Impl>()) {
  CHORALE_CHECK(grammar != nullptr);
  chorale_grammar_matcher* matcher = nullptr;
  chorale_text_bytes error{};
  if (chorale_grammar_matcher_create(grammar->impl_->handle.get(), &matcher, &error) != CHORALE_TEXT_OK) {
    impl_->error = take(error);
  }
  impl_->handle.reset(matcher);
  impl_->grammar = std::move(grammar);
}

GrammarMatcher::GrammarMatcher(GrammarMatcher&&) noexcept = default;
GrammarMatcher& GrammarMatcher::operator=(GrammarMatcher&&) noexcept = default;
GrammarMatcher::~GrammarMatcher() = default;

std::optional<RequestError> GrammarMatcher::compute_mask(std::span<uint32_t> mask) {
  if (!impl_->handle) return matcher_error(impl_->error);
  chorale_text_bytes error{};
  if (chorale_grammar_matcher_mask(impl_->handle.get(), mask.data(), mask.size(), &error) !=
      CHORALE_TEXT_OK) {
    return matcher_error(take(error));
  }
  return std::nullopt;
}

std::variant<bool, RequestError> GrammarMatcher::accept(int32_t token) {
  if (!impl_->handle) return matcher_error(impl_->error);
  bool accepted = false;
  chorale_text_bytes error{};
  if (chorale_grammar_matcher_accept(impl_->handle.get(), static_cast<uint32_t>(token), &accepted, &error) !=
      CHORALE_TEXT_OK) {
    return matcher_error(take(error));
  }
  return accepted;
}

bool GrammarMatcher::is_accepting() const {
  return impl_->state().first;
}

bool GrammarMatcher::is_finished() const {
  return impl_->state().second;
}

// ---- all of a server

namespace {

struct SourceHash {
  size_t operator()(const GrammarSource& source) const {
    return std::hash<std::string>()(source.text) * 31 + static_cast<size_t>(source.kind);
  }
};

// The text of a JSON object says nothing, and the one entry serves them all.
GrammarSource cache_key(const GrammarSource& source) {
  return source.kind == GrammarKind::kJsonObject ? GrammarSource() : source;
}

// The grammars used last. Not thread-safe.
class Cache {
 public:
  explicit Cache(GrammarCompiler::CacheLimits limits) : limits_(limits) {}

  std::shared_ptr<const Grammar> find(const GrammarSource& source) {
    const auto found = index_.find(source);
    if (found == index_.end()) return nullptr;
    ++use_.hits;
    entries_.splice(entries_.begin(), entries_, found->second);  // the first is the one used last
    return found->second->grammar;
  }

  void insert(const GrammarSource& source, std::shared_ptr<const Grammar> grammar) {
    if (limits_.grammars == 0 || source.text.size() > limits_.source_bytes || index_.contains(source)) return;
    entries_.push_front({source, std::move(grammar)});
    index_.emplace(source, entries_.begin());
    use_.source_bytes += source.text.size();
    while (entries_.size() > limits_.grammars || use_.source_bytes > limits_.source_bytes) {
      use_.source_bytes -= entries_.back().source.text.size();
      index_.erase(entries_.back().source);
      entries_.pop_back();
    }
  }

  void count_miss() { ++use_.misses; }

  GrammarCompiler::CacheUse use() const {
    GrammarCompiler::CacheUse use = use_;
    use.grammars = entries_.size();
    return use;
  }

 private:
  struct Entry {
    GrammarSource source;
    std::shared_ptr<const Grammar> grammar;
  };

  GrammarCompiler::CacheLimits limits_;
  GrammarCompiler::CacheUse use_;
  std::list<Entry> entries_;
  std::unordered_map<GrammarSource, std::list<Entry>::iterator, SourceHash> index_;
};

}  // namespace

struct GrammarCompiler::Impl {
  Handle<chorale_grammar_environment> environment;
  size_t mask_words = 0;
  mutable std::mutex mutex;  // of the cache
  Cache cache;

  explicit Impl(CacheLimits limits) : cache(limits) {}
};

GrammarCompiler::GrammarCompiler(const Tokenizer& tokenizer, int64_t vocab_size,
                                 std::span<const int32_t> eos_ids)
    : GrammarCompiler(tokenizer, vocab_size, eos_ids, CacheLimits()) {}

GrammarCompiler::GrammarCompiler(const Tokenizer& tokenizer, int64_t vocab_size,
                                 std::span<const int32_t> eos_ids, CacheLimits limits)
    : impl_(std::make_unique<Impl>(limits)) {
  CHORALE_CHECK(vocab_size > 0);
  const auto* ids = reinterpret_cast<const uint32_t*>(eos_ids.data());  // negative ones are no tokens either
  chorale_grammar_environment* environment = nullptr;
  chorale_text_bytes error{};
  if (chorale_grammar_environment_create(tokenizer.crate_tokenizer(), static_cast<size_t>(vocab_size), ids,
                                         eos_ids.size(), &environment, &error) != CHORALE_TEXT_OK) {
    throw_error("The vocabulary cannot be used for grammars: {}", take(error));
  }
  impl_->environment.reset(environment);
  impl_->mask_words = (static_cast<size_t>(vocab_size) + 31) / 32;
}

GrammarCompiler::~GrammarCompiler() = default;

std::shared_ptr<const Grammar> GrammarCompiler::find(const GrammarSource& source) {
  const std::lock_guard lock(impl_->mutex);
  return impl_->cache.find(cache_key(source));
}

std::variant<std::shared_ptr<const Grammar>, RequestError> GrammarCompiler::compile(
    const GrammarSource& source) {
  const GrammarSource key = cache_key(source);
  {
    const std::lock_guard lock(impl_->mutex);
    if (auto grammar = impl_->cache.find(key)) return grammar;
    impl_->cache.count_miss();
  }
  chorale_grammar* compiled = nullptr;
  chorale_text_bytes error{};
  if (chorale_grammar_compile(impl_->environment.get(), to_crate(key.kind), view_of(key.text), &compiled,
                              &error) != CHORALE_TEXT_OK) {
    return compile_error(take(error));
  }
  Handle<chorale_grammar> handle(compiled);
  std::shared_ptr<const Grammar> grammar(
      new Grammar(std::make_unique<Grammar::Impl>(Grammar::Impl{std::move(handle)})));
  const std::lock_guard lock(impl_->mutex);
  impl_->cache.insert(key, grammar);
  return grammar;
}

size_t GrammarCompiler::mask_words() const {
  return impl_->mask_words;
}

GrammarCompiler::CacheUse GrammarCompiler::cache_use() const {
  const std::lock_guard lock(impl_->mutex);
  return impl_->cache.use();
}

}  // namespace chorale::text
