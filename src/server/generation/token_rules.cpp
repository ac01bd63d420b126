#include "server/generation/token_rules.h"

#include <algorithm>
#include <utility>

namespace chorale::server {
namespace {

constexpr uint32_t kBits = 32;

uint32_t bit_of(int32_t token) {
  return 1U << (static_cast<uint32_t>(token) % kBits);
}

bool is_set(std::span<const uint32_t> mask, int32_t token) {
  const size_t word = static_cast<size_t>(token) / kBits;
  return word < mask.size() && (mask[word] & bit_of(token)) != 0;
}

void set_only(std::span<uint32_t> mask, int32_t token) {
  std::ranges::fill(mask, 0U);
  mask[static_cast<size_t>(token) / kBits] = bit_of(token);
}

void clear(std::span<uint32_t> mask, int32_t token) {
  const size_t word = static_cast<size_t>(token) / kBits;
  if (word < mask.size()) mask[word] &= ~bit_of(token);
}

bool ends_with(std::span<const int32_t> tokens, std::span<const int32_t> end) {
  return tokens.size() >= end.size() && std::ranges::equal(tokens.last(end.size()), end);
}

// How far an output has come in its reasoning.
class ReasoningState {
 public:
  explicit ReasoningState(const TokenRules::Reasoning& rules) : rules_(rules), reasons_(rules.opened) {}

  void accept(std::span<const int32_t> output) {
    if (closed_) return;
    if (!reasons_) {
      reasons_ = std::ranges::equal(output, rules_.open);
      closed_ = !reasons_ && output.size() >= rules_.open.size();
      return;
    }
    ++num_tokens_;
    closing_ = closing_ < rules_.close.size() && output.back() == rules_.close[closing_] ? closing_ + 1 : 0;
    closed_ = ends_with(output, rules_.close);
  }

  // The token that has to come.
  std::optional<int32_t> forced() const {
    const auto begun = static_cast<int64_t>(closing_);
    if (!reasons_ || closed_ || num_tokens_ - begun < rules_.budget) return std::nullopt;
    return rules_.close[closing_];
  }

 private:
  const TokenRules::Reasoning& rules_;
  bool reasons_;
  bool closed_ = false;
  int64_t num_tokens_ = 0;
  size_t closing_ = 0;  // tokens of `close` that the output ends with
};

class RuledOutput : public engine::TokenConstraint {
 public:
  RuledOutput(std::shared_ptr<const TokenRules> rules, std::unique_ptr<engine::TokenConstraint> inner)
      : rules_(std::move(rules)), inner_(std::move(inner)) {
    if (rules_->reasoning) reasoning_.emplace(*rules_->reasoning);
  }

  std::optional<RequestError> next_mask(std::span<uint32_t> mask) override {
    if (inner_) {
      if (auto error = inner_->next_mask(mask)) return error;
    } else {
      std::ranges::fill(mask, ~0U);
    }
    if (reasoning_) {
      if (const auto token = reasoning_->forced(); token && is_set(mask, *token)) {
        set_only(mask, *token);
        return std::nullopt;
      }
    }
    if (!rules_->allowed.empty()) keep_allowed(mask);
    for (const std::vector<int32_t>& word : rules_->bad_words) {
      const std::span tokens(word);
      if (ends_with(output_, tokens.first(word.size() - 1))) clear(mask, word.back());
    }
    return std::nullopt;
  }

  std::optional<RequestError> accept(int32_t token) override {
    output_.push_back(token);
    if (reasoning_) reasoning_->accept(output_);
    return inner_ ? inner_->accept(token) : std::nullopt;
  }

 private:
  void keep_allowed(std::span<uint32_t> mask) {
    allowed_.assign(mask.size(), 0U);
    for (const int32_t token : rules_->allowed) {
      const size_t word = static_cast<size_t>(token) / kBits;
      if (word < allowed_.size()) allowed_[word] |= bit_of(token);
    }
    for (size_t i = 0; i < mask.size(); ++i) mask[i] &= allowed_[i];
  }

  std::shared_ptr<const TokenRules> rules_;
  std::unique_ptr<engine::TokenConstraint> inner_;
  std::optional<ReasoningState> reasoning_;
  std::vector<int32_t> output_;
  std::vector<uint32_t> allowed_;  // bits
};

size_t last_end(std::span<const int32_t> tokens, const std::vector<int32_t>& part) {
  const auto found = std::find_end(tokens.begin(), tokens.end(), part.begin(), part.end());
  return found == tokens.end() ? 0 : static_cast<size_t>(found - tokens.begin()) + part.size();
}

}  // namespace

bool leaves_open(std::span<const int32_t> prompt, const TokenRules::Reasoning& reasoning) {
  return last_end(prompt, reasoning.open) > last_end(prompt, reasoning.close);
}

engine::ConstraintFactory with_rules(std::shared_ptr<const TokenRules> rules,
                                     engine::ConstraintFactory constraint) {
  return [rules = std::move(rules), constraint = std::move(constraint)] {
    return std::make_unique<RuledOutput>(rules, constraint ? constraint() : nullptr);
  };
}

}  // namespace chorale::server
