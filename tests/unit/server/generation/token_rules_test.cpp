#include "server/generation/token_rules.h"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace chorale::server {
namespace {

constexpr int32_t kVocab = 100;

// What may come next.
std::vector<int32_t> allowed(engine::TokenConstraint& output) {
  std::array<uint32_t, 4> mask{};
  EXPECT_FALSE(output.next_mask(mask));
  std::vector<int32_t> tokens;
  for (int32_t token = 0; token < kVocab; ++token) {
    if ((mask[static_cast<size_t>(token) / 32] >> (static_cast<uint32_t>(token) % 32) & 1U) != 0)
      tokens.push_back(token);
  }
  return tokens;
}

bool may_come(engine::TokenConstraint& output, int32_t token) {
  const std::vector<int32_t> tokens = allowed(output);
  return std::ranges::find(tokens, token) != tokens.end();
}

std::unique_ptr<engine::TokenConstraint> output_of(TokenRules rules,
                                                   engine::ConstraintFactory inner = nullptr) {
  return with_rules(std::make_shared<const TokenRules>(std::move(rules)), std::move(inner))();
}

// Tokens from 10 on.
class FromTen : public engine::TokenConstraint {
 public:
  std::optional<RequestError> next_mask(std::span<uint32_t> mask) override {
    std::ranges::fill(mask, ~0U);
    mask[0] &= ~((1U << 10U) - 1);
    return std::nullopt;
  }
  std::optional<RequestError> accept(int32_t) override { return std::nullopt; }
};

TEST(TokenRules, OnlyAllowedTokensCome) {
  const auto output = output_of({.allowed = {3, 64, 99}});
  EXPECT_EQ(allowed(*output), (std::vector<int32_t>{3, 64, 99}));
  output->accept(3);
  EXPECT_EQ(allowed(*output), (std::vector<int32_t>{3, 64, 99}));
  EXPECT_EQ(allowed(*output_of({.allowed = {3, 64}}, [] { return std::make_unique<FromTen>(); })),
            (std::vector<int32_t>{64}));
}

TEST(TokenRules, ABadWordDoesNotBecomeWhole) {
  const auto output = output_of({.bad_words = {{7}, {20, 21, 22}, {21, 30}}});
  EXPECT_FALSE(may_come(*output, 7));
  EXPECT_TRUE(may_come(*output, 22));
  output->accept(20);
  EXPECT_TRUE(may_come(*output, 22));
  output->accept(21);
  EXPECT_FALSE(may_come(*output, 22));
  EXPECT_FALSE(may_come(*output, 30));
  EXPECT_TRUE(may_come(*output, 20));
  output->accept(20);
  EXPECT_TRUE(may_come(*output, 22));
}

TEST(TokenRules, ReasoningEndsAfterItsBudget) {
  for (const bool opened : {true, false}) {
    for (const int64_t budget : {0, 1, 5}) {
      const auto output =
          output_of({.reasoning = TokenRules::Reasoning{
                         .budget = budget, .open = {50}, .close = {60, 61}, .opened = opened}});
      if (!opened) {
        EXPECT_TRUE(may_come(*output, 1));
        output->accept(50);
      }
      for (int64_t i = 0; i < budget; ++i) {
        EXPECT_TRUE(may_come(*output, 1)) << i;
        output->accept(1);
      }
      EXPECT_EQ(allowed(*output), (std::vector<int32_t>{60}));
      output->accept(60);
      EXPECT_EQ(allowed(*output), (std::vector<int32_t>{61}));
      output->accept(61);
      for (int i = 0; i < 10; ++i) {
        EXPECT_TRUE(may_come(*output, 1)) << "the answer has no budget";
        output->accept(1);
      }
    }
  }
}

TEST(TokenRules, ReasoningThatEndsByItselfIsLeftAlone) {
  const auto output = output_of(
      {.reasoning = TokenRules::Reasoning{.budget = 3, .open = {50}, .close = {60, 61}, .opened = true}});
  for (const int32_t token : {1, 60, 61, 1, 1, 1, 1}) {
    EXPECT_TRUE(may_come(*output, token));
    output->accept(token);
  }
  EXPECT_TRUE(may_come(*output, 1));
  // An output that does not begin with reasoning has none.
  const auto plain =
      output_of({.reasoning = TokenRules::Reasoning{.budget = 0, .open = {50}, .close = {60}}});
  for (const int32_t token : {1, 50, 2}) plain->accept(token);
  EXPECT_TRUE(may_come(*plain, 2));
}

TEST(TokenRules, TheEndOfReasoningComesBeforeOtherRules) {
  const TokenRules rules{
      .bad_words = {{60}},
      .allowed = {1, 2},
      .reasoning = TokenRules::Reasoning{.budget = 1, .open = {50}, .close = {60}, .opened = true}};
  const auto output = output_of(rules);
  EXPECT_EQ(allowed(*output), (std::vector<int32_t>{1, 2}));
  output->accept(1);
  EXPECT_EQ(allowed(*output), (std::vector<int32_t>{60}));
  output->accept(60);
  EXPECT_EQ(allowed(*output), (std::vector<int32_t>{1, 2}));
}

TEST(TokenRules, APromptLeavesReasoningOpenOrNot) {
  const TokenRules::Reasoning reasoning{.open = {50}, .close = {60, 61}};
  EXPECT_FALSE(leaves_open(std::vector<int32_t>{}, reasoning));
  EXPECT_FALSE(leaves_open(std::vector<int32_t>{1, 2}, reasoning));
  EXPECT_TRUE(leaves_open(std::vector<int32_t>{1, 50}, reasoning));
  EXPECT_TRUE(leaves_open(std::vector<int32_t>{1, 50, 3, 60}, reasoning));
  EXPECT_FALSE(leaves_open(std::vector<int32_t>{1, 50, 60, 61, 3}, reasoning));
  EXPECT_TRUE(leaves_open(std::vector<int32_t>{50, 60, 61, 50, 3}, reasoning));
}

}  // namespace
}  // namespace chorale::server
