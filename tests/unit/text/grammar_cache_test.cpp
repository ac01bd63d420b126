// Many grammars and many threads: what the compiler keeps.
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/text/grammar_fixture.h"

namespace chorale::text {
namespace {

using testing::Le;

TEST(GrammarCache, KeepsTheOnesUsedLastWithinItsBounds) {
  GrammarCompiler compiler(bundled_tokenizer(), kBundledVocab, {{kBundledEos}},
                           GrammarCompiler::CacheLimits{3, 100});
  const auto get = [&](std::string text) { return compile(compiler, GrammarKind::kRegex, std::move(text)); };
  const auto first = get("a");
  EXPECT_EQ(get("a"), first);
  EXPECT_NE(compile(compiler, GrammarKind::kChoice, "[\"a\"]"), first);
  get("b");
  EXPECT_EQ(get("a"), first);  // used last, so the choice goes
  get("c");
  EXPECT_EQ(compiler.cache_use().grammars, 3U);
  EXPECT_EQ(compiler.cache_use().source_bytes, 3U);
  EXPECT_EQ(get("a"), first);
  EXPECT_EQ(compiler.cache_use().hits, 3U);
  EXPECT_EQ(compiler.cache_use().misses, 4U);

  get(std::string(99, 'x'));
  EXPECT_EQ(compiler.cache_use().grammars, 2U);
  EXPECT_EQ(compiler.cache_use().source_bytes, 100U);
  get(std::string(101, 'x'));  // larger than all of the cache
  EXPECT_EQ(compiler.cache_use().source_bytes, 100U);
  EXPECT_EQ(get("a"), first);

  const auto object = compile(compiler, GrammarKind::kJsonObject, "");
  EXPECT_EQ(compile(compiler, GrammarKind::kJsonObject, "{}"), object);
}

TEST(GrammarCache, ThreadsShareOneCompiler) {
  const Vocabulary& vocabulary = kVocabularies[0];
  const std::vector<Language> all = languages();
  std::vector<Walk> expected;
  for (const Language& language : all) {
    expected.push_back(walk(vocabulary, compile(bundled(), language.source.kind, language.source.text), 1));
  }
  GrammarCompiler compiler(bundled_tokenizer(), kBundledVocab, {{kBundledEos}},
                           GrammarCompiler::CacheLimits{4, 10000});
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < all.size(); ++i) {
        const size_t k = (i + t / 2) % all.size();
        const auto grammar = compile(compiler, all[k].source.kind, all[k].source.text);
        const Walk result = walk(vocabulary, grammar, 1);
        EXPECT_EQ(result.tokens, expected[k].tokens);
        EXPECT_EQ(result.masks, expected[k].masks);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(compiler.cache_use().grammars, Le(4U));
}

TEST(GrammarCache, MatchersOutliveTheCompiler) {
  auto compiler = std::make_unique<GrammarCompiler>(bundled_tokenizer(), kBundledVocab,
                                                    std::vector<int32_t>{kBundledEos});
  GrammarMatcher matcher(compile(*compiler, GrammarKind::kRegex, "[a-z]{3}"));
  std::vector<uint32_t> mask(compiler->mask_words());
  compiler.reset();
  ASSERT_FALSE(matcher.compute_mask(mask));
  ASSERT_TRUE(accept(matcher, allowed_tokens(mask).front()));
  GrammarMatcher moved = std::move(matcher);
  EXPECT_FALSE(moved.compute_mask(mask));
}

}  // namespace
}  // namespace chorale::text
