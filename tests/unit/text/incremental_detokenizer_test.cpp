#include "text/incremental_detokenizer.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "unit/random_cases.h"
#include "unit/text/text_fixtures.h"

namespace chorale::text {
namespace {

// The ids one by one: each piece is whole characters, and the pieces are the decoding at once.
void expect_as_at_once(const Tokenizer& tokenizer, std::span<const int32_t> ids, bool skip_special) {
  IncrementalDetokenizer detokenizer(tokenizer, skip_special);
  std::string text;
  for (const int32_t id : ids) {
    const std::string piece = detokenizer.push(id);
    ASSERT_TRUE(is_valid_utf8(piece)) << "token " << id;
    text += piece;
  }
  const std::string rest = detokenizer.finish();
  ASSERT_TRUE(is_valid_utf8(rest));
  ASSERT_EQ(text + rest, tokenizer.decode(ids, skip_special)) << testing::PrintToString(ids);
  EXPECT_EQ(detokenizer.finish(), "");
}

// Tokens that are no whole characters, which random ids seldom put beside each other.
std::vector<int32_t> fragments(const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!is_valid_utf8(tokenizer.token_bytes(id))) ids.push_back(id);
  }
  return ids;
}

class DetokenizerReference : public testing::TestWithParam<Reference> {
 protected:
  const Tokenizer& tokenizer = GetParam().tokenizer();
};

TEST_P(DetokenizerReference, GoldenTexts) {
  const Json golden = read_golden(GetParam().golden);
  for (const Json& entry : golden) {
    SCOPED_TRACE(entry["text"].get<std::string>());
    const auto ids = entry["ids"].get<std::vector<int32_t>>();
    for (const bool skip_special : {false, true}) expect_as_at_once(tokenizer, ids, skip_special);

    // Ended early, in the middle of a character too.
    for (size_t n = 0; n < ids.size(); ++n) expect_as_at_once(tokenizer, std::span(ids).first(n), false);
  }
}

TEST_P(DetokenizerReference, RandomTokens) {
  std::mt19937_64 random(1);
  const auto size = static_cast<int32_t>(tokenizer.vocab_size());
  std::uniform_int_distribution<int32_t> any_id(-2, size + 1);  // some that are no tokens
  std::uniform_int_distribution<size_t> any_length(0, 60);
  for (int round = 0; round < random_cases(2000); ++round) {
    std::vector<int32_t> ids(any_length(random));
    for (int32_t& id : ids) id = any_id(random);
    expect_as_at_once(tokenizer, ids, round % 2 == 0);
    if (HasFatalFailure()) return;
  }
}

TEST_P(DetokenizerReference, RandomPartsOfCharacters) {
  std::mt19937_64 random(2);
  const std::vector<int32_t> parts = fragments(tokenizer);
  ASSERT_GE(parts.size(), 128U);
  std::vector<int32_t> bytes;  // the single ones
  std::copy_if(parts.begin(), parts.end(), std::back_inserter(bytes),
               [&](int32_t id) { return tokenizer.token_bytes(id).size() == 1; });
  ASSERT_EQ(bytes.size(), 128U);
  std::uniform_int_distribution<size_t> any_length(0, 40);
  for (int round = 0; round < random_cases(4000); ++round) {
    const std::vector<int32_t>& from = round % 2 == 0 ? parts : bytes;
    std::uniform_int_distribution<size_t> any(0, from.size() - 1);
    std::vector<int32_t> ids(any_length(random));
    for (int32_t& id : ids) id = from[any(random)];
    // Sometimes something whole or special comes between the parts.
    if (!ids.empty() && round % 3 == 0) ids[ids.size() / 2] = *tokenizer.token_to_id("<|im_end|>");
    expect_as_at_once(tokenizer, ids, round % 4 < 2);
    if (HasFatalFailure()) return;
  }
}

// Every character of a text that is cut into its bytes.
TEST_P(DetokenizerReference, CharactersByteByByte) {
  std::vector<int32_t> token_of(256, -1);
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string bytes = tokenizer.token_bytes(id);
    if (bytes.size() == 1) token_of[static_cast<unsigned char>(bytes[0])] = id;
  }
  const std::string text = "a\u00E9\u07FF\u0800\uD7FF\uE000\uFFFD\U00010000\U0010FFFF\U0001F409";
  IncrementalDetokenizer detokenizer(tokenizer, true);
  std::string out;
  size_t pieces = 0;
  for (const char byte : text) {
    const std::string piece = detokenizer.push(token_of[static_cast<unsigned char>(byte)]);
    pieces += piece.empty() ? 0 : 1;
    out += piece;
    EXPECT_TRUE(text.starts_with(out));
  }
  EXPECT_EQ(out, text);
  EXPECT_EQ(pieces, 10U);  // one per character, as soon as it is whole
  EXPECT_EQ(detokenizer.finish(), "");
}

INSTANTIATE_TEST_SUITE_P(All, DetokenizerReference, testing::ValuesIn(kReferences),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(IncrementalDetokenizer, HoldsBackAnIncompleteCharacterUntilTheEnd) {
  const Tokenizer& tokenizer = bundled_tokenizer();
  const std::vector<int32_t> dragon = tokenizer.encode("\U0001F409", false);
  ASSERT_GT(dragon.size(), 1U);
  IncrementalDetokenizer detokenizer(tokenizer, true);
  EXPECT_EQ(detokenizer.push(dragon[0]), "");
  // What cannot belong to it any more makes it a replacement character.
  EXPECT_EQ(detokenizer.push(tokenizer.encode("a", false).at(0)), "\uFFFDa");
  EXPECT_EQ(detokenizer.push(dragon[0]), "");
  EXPECT_EQ(detokenizer.finish(), "\uFFFD");
}

}  // namespace
}  // namespace chorale::text
