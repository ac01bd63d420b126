// Texts that a grammar lets through are of its language, and the masks are the same for all who ask.
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/text/grammar_fixture.h"

namespace chorale::text {
namespace {

class GrammarWalk : public testing::TestWithParam<Vocabulary> {};

TEST_P(GrammarWalk, EndsInATextOfTheLanguage) {
  for (const Language& language : languages()) {
    SCOPED_TRACE(language.name);
    const auto grammar = compile(GetParam().compiler(), language.source.kind, language.source.text);
    size_t ended = 0;
    const uint32_t walks = GetParam().size == kBundledVocab ? 12 : 4;
    for (uint32_t seed = 0; seed < walks; ++seed) {
      const Walk result = walk(GetParam(), grammar, seed);
      if (!result.ended) continue;  // nested without end
      ++ended;
      EXPECT_TRUE(language.holds(result.text)) << result.text;
    }
    EXPECT_GE(ended, walks / 2);
  }
}

TEST_P(GrammarWalk, ASecondMatcherThatAcceptsTheSameTokensHasTheSameMasks) {
  for (const Language& language : languages()) {
    SCOPED_TRACE(language.name);
    const auto grammar = compile(GetParam().compiler(), language.source.kind, language.source.text);
    const Walk first = walk(GetParam(), grammar, 7);
    GrammarMatcher replay(grammar);
    std::vector<uint32_t> mask(GetParam().compiler().mask_words());
    for (size_t i = 0; i < first.tokens.size(); ++i) {
      if (i % 3 == 0) {  // masks that nobody asked for change nothing
        ASSERT_FALSE(replay.compute_mask(mask));
        ASSERT_EQ(mask, first.masks[i]) << i;
      }
      ASSERT_TRUE(accept(replay, first.tokens[i]));
    }
  }
}

TEST_P(GrammarWalk, WhatTheMaskForbidsIsNotAcceptedAndChangesNothing) {
  const auto grammar = compile(GetParam().compiler(), GrammarKind::kRegex, "[0-9]{3}-[a-z]{2}");
  GrammarMatcher matcher(grammar);
  std::vector<uint32_t> mask(GetParam().compiler().mask_words());
  std::vector<uint32_t> again(mask.size());
  std::mt19937 random(3);
  while (!matcher.is_finished()) {
    ASSERT_FALSE(matcher.compute_mask(mask));
    for (int i = 0; i < 200; ++i) {
      const auto id = static_cast<int32_t>(random() % static_cast<uint32_t>(GetParam().size));
      if (!is_allowed(mask, id)) {
        ASSERT_FALSE(accept(matcher, id)) << id;
      }
    }
    for (const int64_t id : {GetParam().tokenizer().vocab_size(), GetParam().size - 1, GetParam().size,
                             int64_t{INT32_MAX}, int64_t{-1}, int64_t{INT32_MIN}}) {
      ASSERT_FALSE(accept(matcher, static_cast<int32_t>(id))) << id;
    }
    ASSERT_FALSE(matcher.compute_mask(again));
    ASSERT_EQ(mask, again);
    const std::vector<int32_t> allowed = allowed_tokens(mask);
    ASSERT_TRUE(accept(matcher, allowed[random() % allowed.size()]));
  }
  ASSERT_FALSE(matcher.compute_mask(mask));
  EXPECT_EQ(allowed_tokens(mask).size(), GetParam().eos.size());
  EXPECT_TRUE(accept(matcher, GetParam().eos.back()));
  EXPECT_TRUE(matcher.is_finished());
}

INSTANTIATE_TEST_SUITE_P(All, GrammarWalk, testing::ValuesIn(kVocabularies),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace chorale::text
