// Structured output: which tokens may come next, so that a generated text follows a JSON schema, a regular
// expression or a grammar. Over the Rust crate `llguidance`.
//
//   GrammarCompiler   a server's vocabulary, made ready once; compiles grammars and keeps the last ones
//   Grammar           one compiled grammar, shared by all choices that follow it
//   GrammarMatcher    how far one choice has come in its grammar
//
// Sources come from requests. Their size, the time and memory to compile them, and the work of each mask are
// bounded: what takes more is a RequestError. `param` is empty in the errors of this file: the caller knows
// which field held the grammar.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/error.h"

namespace chorale::text {

class Tokenizer;

// Why a "pattern" of a JSON schema cannot be enforced (a look-around, \b, a mistake, its size); nullopt: it
// can. Thread-safe; takes no more than a few milliseconds.
std::optional<std::string> unsupported_pattern(std::string_view pattern);

enum class GrammarKind {
  kJsonSchema,         // a JSON schema; at most 256 KiB
  kJsonObject,         // any JSON object; the text is not read
  kRegex,              // a regular expression of Rust's `regex`, which the whole text matches; at most 4 KiB
  kEbnf,               // rules `root ::= ...` as in llama.cpp's GBNF and XGrammar, or Lark; at most 64 KiB
  kChoice,             // one of these: a JSON array of 1 to 4096 strings
  kLark,               // Lark in the variant of llguidance; at most 64 KiB
  kLenientJsonSchema,  // the same as kJsonSchema, where parts that cannot be enforced say nothing
  // Lark that the server itself wrote around schemas of a request: at most 1 MiB and 4,000 properties, and
  // no bounds on what is not in the schemas. Their key "x-guidance" holds options of llguidance.
  kWritten,
};

struct GrammarSource {
  GrammarKind kind = GrammarKind::kJsonObject;
  std::string text;

  bool operator==(const GrammarSource&) const = default;
};

// Immutable; safe to use from many threads.
class Grammar {
 public:
  ~Grammar();
  Grammar(const Grammar&) = delete;
  Grammar& operator=(const Grammar&) = delete;

 private:
  friend class GrammarCompiler;
  friend class GrammarMatcher;
  struct Impl;
  explicit Grammar(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// One thread at a time. Two matchers of a grammar that accepted the same tokens behave the same, whatever
// others did: after a preemption a new one that accepts the old tokens takes its place.
class GrammarMatcher {
 public:
  // At the beginning of a text. Keeps the grammar alive.
  explicit GrammarMatcher(std::shared_ptr<const Grammar> grammar);
  GrammarMatcher(GrammarMatcher&&) noexcept;
  GrammarMatcher& operator=(GrammarMatcher&&) noexcept;
  ~GrammarMatcher();

  // Sets bit id % 32 of mask[id / 32] for each token that may come next and clears all others. The mask has
  // GrammarCompiler::mask_words() words. At least one token is allowed. The tokens that end a generation are
  // allowed when the text so far is complete, and alone are when it cannot go on. A grammar that turns out to
  // be too complex, or to lead nowhere, is an `invalid` RequestError, now and from then on.
  std::optional<RequestError> compute_mask(std::span<uint32_t> mask);

  // Goes on by one token. False for a token that may not come next; nothing changes then. Errors as above.
  std::variant<bool, RequestError> accept(int32_t token);

  // Whether the text may end here. False after an error.
  bool is_accepting() const;
  // Whether it must: nothing but the end can follow, or the end has come.
  bool is_finished() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Thread-safe. The tokenizer need not outlive it; grammars and matchers may.
class GrammarCompiler {
 public:
  // Bounds of what is kept of grammars that were compiled; the ones used least recently go first.
  struct CacheLimits {
    size_t grammars = 128;
    size_t source_bytes = size_t{4} << 20;
  };

  // For a model with vocab_size rows of logits, which may be more than the tokenizer has tokens: rows beyond
  // are never allowed. eos_ids end a generation: one at least, all of them tokens, else throws Error.
  GrammarCompiler(const Tokenizer& tokenizer, int64_t vocab_size, std::span<const int32_t> eos_ids);
  GrammarCompiler(const Tokenizer& tokenizer, int64_t vocab_size, std::span<const int32_t> eos_ids,
                  CacheLimits limits);
  ~GrammarCompiler();
  GrammarCompiler(const GrammarCompiler&) = delete;
  GrammarCompiler& operator=(const GrammarCompiler&) = delete;

  // The compiled grammar, from the cache where it is there. A source with mistakes or with unsupported parts
  // is an `invalid` RequestError that says which. May take a second of one core: not for a thread that steps
  // the model. Threads that ask for the same new source at a time each compile it.
  std::variant<std::shared_ptr<const Grammar>, RequestError> compile(const GrammarSource& source);

  // What compile() would find in the cache; nullptr: it would have to compile.
  std::shared_ptr<const Grammar> find(const GrammarSource& source);

  // Words of 32 bits in a mask: those of vocab_size bits.
  size_t mask_words() const;

  struct CacheUse {
    size_t grammars = 0;
    size_t source_bytes = 0;
    uint64_t hits = 0;
    uint64_t misses = 0;
  };
  CacheUse cache_use() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace chorale::text
