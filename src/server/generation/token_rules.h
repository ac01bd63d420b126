// What a request says about single tokens of its output, beside sampling and grammars: words that must not
// come, the only tokens that may, and how long the model may reason.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/token_constraint.h"

namespace chorale::server {

struct TokenRules {
  // After `budget` tokens of reasoning, `close` is made to come. Reasoning begins with the output, where the
  // prompt has opened it, or where the output begins with `open`.
  struct Reasoning {
    int64_t budget = 0;
    std::vector<int32_t> open;   // the tokens of <think>
    std::vector<int32_t> close;  // the tokens of </think>
    bool opened = false;
  };

  std::vector<std::vector<int32_t>> bad_words;  // none of these sequences may come; not empty
  std::vector<int32_t> allowed;                 // empty: all tokens
  std::optional<Reasoning> reasoning;

  bool empty() const { return bad_words.empty() && allowed.empty() && !reasoning; }
};

// Whether a prompt ends inside of reasoning: what it opened last is not closed.
bool leaves_open(std::span<const int32_t> prompt, const TokenRules::Reasoning& reasoning);

// A constraint of these rules and, where it is not null, of another one. The end of reasoning comes before
// the other rules; no rule makes a token possible that the other constraint forbids.
engine::ConstraintFactory with_rules(std::shared_ptr<const TokenRules> rules,
                                     engine::ConstraintFactory constraint);

}  // namespace chorale::server
