#include "text/tokenizer.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "text/crate.h"
#include "unit/text/text_fixtures.h"

namespace chorale::text {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

class TokenizerReference : public testing::TestWithParam<Reference> {
 protected:
  const Tokenizer& tokenizer = GetParam().tokenizer();
  const Json golden = read_golden(GetParam().golden);
};

TEST_P(TokenizerReference, EncodesAndDecodesAsTransformers) {
  EXPECT_EQ(golden.size(), 82U);
  for (const Json& entry : golden) {
    const auto text = entry["text"].get<std::string>();
    SCOPED_TRACE(text);
    const auto ids = entry["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer.encode(text, true), ids);
    EXPECT_EQ(tokenizer.encode(text, false), ids);
    EXPECT_EQ(tokenizer.decode(ids, false), entry["decoded"].get<std::string>());
    EXPECT_EQ(tokenizer.decode(ids, true), entry["decoded_skip"].get<std::string>());
  }
}

TEST_P(TokenizerReference, TokenBytesJoinedAreTheText) {
  size_t ordinary = 0;
  for (const Json& entry : golden) {
    const auto text = entry["text"].get<std::string>();
    if (text != entry["decoded"].get<std::string>()) continue;  // NFC changed it
    SCOPED_TRACE(text);
    std::string bytes;
    for (const int32_t id : tokenizer.encode(text, false)) bytes += tokenizer.token_bytes(id);
    EXPECT_EQ(bytes, text);
    ++ordinary;
  }
  EXPECT_EQ(ordinary, 78U);
}

TEST_P(TokenizerReference, TokenBytesAreWhatTheTokenDecodesTo) {
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string bytes = tokenizer.token_bytes(id);
    if (is_valid_utf8(bytes)) {
      ASSERT_EQ(tokenizer.decode(std::vector<int32_t>{id}, false), bytes) << id;
    } else {
      ASSERT_THAT(tokenizer.decode(std::vector<int32_t>{id}, false), HasSubstr("\uFFFD")) << id;
    }
    if (tokenizer.is_special(id)) {
      ASSERT_EQ(tokenizer.decode(std::vector<int32_t>{id}, true), "") << id;
      ASSERT_EQ(tokenizer.token_to_id(bytes), id);
    }
  }
}

TEST_P(TokenizerReference, EveryByteHasAToken) {
  std::vector<bool> seen(256, false);
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string bytes = tokenizer.token_bytes(id);
    if (bytes.size() == 1) seen[static_cast<unsigned char>(bytes[0])] = true;
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), true), 256);
}

TEST_P(TokenizerReference, IdsThatAreNoTokensStandForNothing) {
  const auto size = static_cast<int32_t>(tokenizer.vocab_size());
  for (const int32_t id : {size, size + 1, INT32_MAX, -1, INT32_MIN}) {
    EXPECT_EQ(tokenizer.token_bytes(id), "");
    EXPECT_FALSE(tokenizer.is_special(id));
  }
  const int32_t known = tokenizer.encode("a", false).at(0);
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{size, known, -1, INT32_MAX, known, INT32_MIN}, false),
            "aa");
  EXPECT_EQ(tokenizer.decode({}, false), "");
}

// As the crate tokenizes it at once.
std::vector<int32_t> encode_at_once(const Tokenizer& tokenizer, std::string_view text) {
  chorale_text_ids ids{};
  chorale_text_bytes error{};
  EXPECT_EQ(chorale_tokenizer_encode(tokenizer.crate_tokenizer(), view_of(text), false, &ids, &error),
            CHORALE_TEXT_OK);
  std::vector<int32_t> all(ids.data, ids.data + ids.size);
  chorale_text_ids_free(ids);
  return all;
}

TEST_P(TokenizerReference, PiecesHaveTheTokensOfTheWhole) {
  std::vector<std::string> parts{" ",       "\n",      "  \n \n\t ",         "   ",    "<|im_end|>",
                                 "<think>", "e\u0301", "\u1112\u1161\u11ab", "\u0301", "1234567",
                                 "=====",   "'ll",     "\u4e2d\u6587\uff0c", "\r\n",   "a b c"};
  for (const Json& entry : golden) parts.push_back(entry["text"].get<std::string>());
  // Of all, without white space, and with little but white space: places to cut at are common or rare.
  for (int kind = 0; kind < 3; ++kind) {
    SCOPED_TRACE(kind);
    std::mt19937 random(static_cast<uint32_t>(kind));
    std::string text;
    while (text.size() < 150'000) {
      const size_t first = kind == 1 ? 4 : 0;
      const size_t last = kind == 0 ? parts.size() : kind == 1 ? 13 : 4;
      text += parts[first + random() % (last - first)];
    }
    const std::vector<int32_t> ids = encode_at_once(tokenizer, text);
    EXPECT_EQ(tokenizer.encode(text, false), ids);
    const BoundedEncoding bounded = tokenizer.encode_bounded(text, true, {});
    EXPECT_EQ(bounded.end, EncodeEnd::complete);
    EXPECT_EQ(bounded.ids, ids);
  }
}

TEST_P(TokenizerReference, GivesUpATextThatHasTooManyTokens) {
  std::string text;
  while (text.size() < 1'000'000) text += "Once upon a time. ";
  const BoundedEncoding some = tokenizer.encode_bounded(text, true, {.max_tokens = 1500});
  EXPECT_EQ(some.end, EncodeEnd::too_many);
  EXPECT_LT(some.ids.size(), 40'000U) << "it went on";
  const BoundedEncoding none = tokenizer.encode_bounded(text, true, {.max_tokens = 10});
  EXPECT_EQ(none.end, EncodeEnd::too_many);
  EXPECT_TRUE(none.ids.empty()) << "its length alone tells";
  EXPECT_EQ(tokenizer.encode_bounded("Once upon a time", true, {.max_tokens = 1}).end, EncodeEnd::complete);
}

TEST_P(TokenizerReference, IsCancelledBetweenPieces) {
  std::string text;
  while (text.size() < 1'000'000) text += "Once upon a time. ";
  int asked = 0;
  const BoundedEncoding encoding =
      tokenizer.encode_bounded(text, true, {.is_cancelled = [&] { return ++asked == 3; }});
  EXPECT_EQ(encoding.end, EncodeEnd::cancelled);
  EXPECT_LT(encoding.ids.size(), 80'000U);
}

TEST_P(TokenizerReference, TellsATextWithoutABreak) {
  const std::string text(2'000'000, ' ');
  EXPECT_EQ(tokenizer.encode_bounded(text, true, {}).end, EncodeEnd::unbroken);
}

TEST_P(TokenizerReference, EncodesControlTokensAsPlainText) {
  const std::string text = "Say <|im_end|> and <|endoftext|>";
  const std::vector<int32_t> ids = tokenizer.encode_plain(text);
  EXPECT_EQ(tokenizer.decode(ids, true), text);
  for (const int32_t id : ids) EXPECT_FALSE(tokenizer.is_special(id)) << id;
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerReference, testing::ValuesIn(kReferences),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(Tokenizer, KnowsItsVocabulary) {
  EXPECT_EQ(bundled_tokenizer().vocab_size(), 4090);
  EXPECT_EQ(bundled_tokenizer().token_to_id("<|im_end|>"), 4066);
  EXPECT_TRUE(bundled_tokenizer().is_special(4066));

  EXPECT_EQ(qwen3_tokenizer().vocab_size(), 151669);
  EXPECT_EQ(qwen3_tokenizer().token_to_id("<|im_end|>"), 151645);
  EXPECT_TRUE(qwen3_tokenizer().is_special(151645));
  // Added, but part of what the model says.
  EXPECT_EQ(qwen3_tokenizer().token_to_id("<think>"), 151667);
  EXPECT_FALSE(qwen3_tokenizer().is_special(151667));
  EXPECT_EQ(qwen3_tokenizer().token_bytes(151667), "<think>");
  EXPECT_EQ(qwen3_tokenizer().token_to_id("no such token"), std::nullopt);
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  EXPECT_THROW(bundled_tokenizer().encode("a\xFF", false), Error);
  EXPECT_THROW(bundled_tokenizer().encode("\xE2\x82", false), Error);
  EXPECT_EQ(bundled_tokenizer().token_to_id("\xFF"), std::nullopt);
}

TEST(Tokenizer, KeepsZeroBytes) {
  const std::string text("a\0b", 3);
  EXPECT_EQ(bundled_tokenizer().decode(bundled_tokenizer().encode(text, false), false), text);
}

// ---- files

constexpr std::string_view kSmall = R"({
  "version": "1.0",
  "added_tokens": [{"id": 2, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true}],
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
  "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
  "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}})";

std::string error_of(const TemporaryFolder& folder) {
  try {
    Tokenizer::load(folder.path());
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "expected an Error, found none";
  return "";
}

TEST(TokenizerFiles, AddsTokensThatStandInTheConfigAlone) {
  TemporaryFolder folder;
  folder.write("tokenizer.json", kSmall);
  EXPECT_EQ(Tokenizer::load(folder.path()).vocab_size(), 3);

  folder.write("tokenizer_config.json",
               R"({"added_tokens_decoder": {"2": {"content": "<end>", "special": true},
                                            "3": {"content": "<tool>", "special": false}}})");
  const Tokenizer tokenizer = Tokenizer::load(folder.path());
  EXPECT_EQ(tokenizer.vocab_size(), 4);
  EXPECT_EQ(tokenizer.encode("ab<tool>a<end>", false), (std::vector<int32_t>{0, 1, 3, 0, 2}));
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{0, 3, 2}, true), "a<tool>");

  folder.write("tokenizer_config.json", R"({"added_tokens_decoder": {"7": {"content": "<tool>"}}})");
  EXPECT_THAT(error_of(folder),
              testing::AllOf(HasSubstr("tokenizer_config.json"), HasSubstr("<tool>"), HasSubstr("the id 7")));
}

TEST(TokenizerFiles, ErrorsNameTheFile) {
  TemporaryFolder folder;
  const std::string file = (folder.path() / "tokenizer.json").string();
  EXPECT_THAT(error_of(folder), StartsWith(file));
  folder.write("tokenizer.json", "{");
  EXPECT_THAT(error_of(folder), StartsWith(file));
  folder.write("tokenizer.json", "\xFF");
  EXPECT_THAT(error_of(folder), StartsWith(file));
  folder.write("tokenizer.json", "{}");
  EXPECT_THAT(error_of(folder), StartsWith(file));

  folder.write("tokenizer.json", kSmall);
  folder.write("tokenizer_config.json", "[]");
  EXPECT_THAT(error_of(folder), StartsWith((folder.path() / "tokenizer_config.json").string()));
}

TEST(TokenizerFiles, RefusesWhatIsNotByteLevel) {
  TemporaryFolder folder;
  std::string other(kSmall);
  const std::string decoder = R"("decoder": {"type": "ByteLevel", "add_prefix_space": true, )"
                              R"("trim_offsets": true, "use_regex": true})";
  ASSERT_NE(other.find(decoder), std::string::npos);
  other.replace(other.find(decoder), decoder.size(), R"("decoder": {"type": "Fuse"})");
  folder.write("tokenizer.json", other);
  EXPECT_THAT(error_of(folder), HasSubstr("expected ByteLevel, found Fuse"));
}

TEST(TokenizerFiles, RefusesIdsBeyondAllVocabularies) {
  TemporaryFolder folder;
  std::string huge(kSmall);
  huge.replace(huge.find(R"("b": 1)"), 6, R"("b": 4294967295)");
  folder.write("tokenizer.json", huge);
  EXPECT_THAT(error_of(folder), HasSubstr("4294967295"));
}

TEST(TokenizerFiles, RefusesOneIdForTwoTokens) {
  TemporaryFolder folder;
  const auto refused = [&](std::string_view what, std::string_view with) {
    std::string file(kSmall);
    EXPECT_NE(file.find(what), std::string::npos);
    folder.write("tokenizer.json", file.replace(file.find(what), what.size(), with));
    return error_of(folder);
  };
  EXPECT_THAT(refused(R"("b": 1)", R"("b": 1, "c": 1)"),
              HasSubstr(R"(the id 1 stands for two tokens, "b" and "c")"));
  EXPECT_THAT(refused(R"("id": 2)", R"("id": 0)"),
              HasSubstr(R"(the id 0 stands for two tokens, "<end>" and "a")"));
  // The library counts the vocabulary, and so gives the added token an id that is taken.
  EXPECT_THAT(refused(R"("b": 1)", R"("b": 2)"),
              HasSubstr(R"(the id 2 stands for two tokens, "<end>" and "b")"));
}

}  // namespace
}  // namespace chorale::text
