#include "tools/load_tokenizer.h"

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "source_dir.h"

namespace chorale::tools {
namespace {

using ::testing::HasSubstr;

const std::filesystem::path kModel = source_dir() / "models/tales-moe";

TEST(LoadTokenizer, RefusesMoreTokensThanTheEmbeddingHasRows) {
  io::ModelConfig config;
  config.vocab_size = 4096;
  EXPECT_EQ(load_tokenizer(kModel, config).vocab_size(), 4090);
  config.vocab_size = 4090;
  EXPECT_EQ(load_tokenizer(kModel, config).vocab_size(), 4090);
  config.vocab_size = 4089;
  try {
    load_tokenizer(kModel, config);
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("tokenizer.json"));
    EXPECT_THAT(error.what(), HasSubstr("4090"));
    EXPECT_THAT(error.what(), HasSubstr("4089"));
  }
}

TEST(StandInTokenizer, EncodesEveryByteAndDecodesEveryId) {
  const std::filesystem::path empty = std::filesystem::path(testing::TempDir()) / "chorale-no-tokenizer";
  std::filesystem::create_directories(empty);
  io::ModelConfig config;
  config.vocab_size = 1000;
  const text::Tokenizer tokenizer = load_tokenizer_or_stand_in(empty, config);
  EXPECT_EQ(tokenizer.vocab_size(), 1000);
  const std::string text = "Grüße, 世界!\n\t\x01";
  const std::vector<int32_t> ids = tokenizer.encode(text, true);
  EXPECT_EQ(ids.size(), text.size());
  EXPECT_EQ(tokenizer.decode(ids, true), text);
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{256, 999}, true), " 256 999");
  EXPECT_THROW(load_tokenizer(empty, config), Error);
}

TEST(StandInTokenizer, FitsTheSmallestVocabulary) {
  const std::filesystem::path empty = std::filesystem::path(testing::TempDir()) / "chorale-no-tokenizer";
  std::filesystem::create_directories(empty);
  for (const int64_t size : {1, 64, 256, 257}) {
    io::ModelConfig config;
    config.vocab_size = size;
    EXPECT_EQ(load_tokenizer_or_stand_in(empty, config).vocab_size(), size);
  }
}

TEST(StandInTokenizer, IsNotUsedWhereThereIsATokenizer) {
  io::ModelConfig config;
  config.vocab_size = 4096;
  EXPECT_EQ(load_tokenizer_or_stand_in(kModel, config).vocab_size(), 4090);
}

TEST(IsValidUtf8, FollowsTheUnicodeTable) {
  for (const std::string good : {"", "plain", "\u00e9", "\u0800", "\ud7ff", "\ue000", "\uffff", "\U00010000",
                                 "\U0010ffff", "a\u00e9b\U0001f600c"}) {
    EXPECT_TRUE(is_valid_utf8(good)) << good;
  }
  for (const std::string bad :
       {"\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xC2", "\xC2 ", "\xE0\x9F\xBF", "\xE0\xA0", "\xED\xA0\x80",
        "\xED\xBF\xBF", "\xF0\x8F\xBF\xBF", "\xF0\x90\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF",
        "ok\xE2\x82"}) {
    EXPECT_FALSE(is_valid_utf8(bad)) << testing::PrintToString(bad);
  }
  EXPECT_TRUE(is_valid_utf8(std::string_view("\0", 1)));
}

}  // namespace
}  // namespace chorale::tools
