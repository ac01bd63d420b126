#include "tools/bench_serve/sharegpt.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "source_dir.h"

namespace chorale::bench_serve {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

Json conversation(const std::string& prompt, const std::string& reply) {
  return {{"id", "x"},
          {"conversations", {{{"from", "human"}, {"value", prompt}}, {{"from", "gpt"}, {"value", reply}}}}};
}

std::vector<Exchange> numbered(size_t count) {
  std::vector<Exchange> exchanges;
  for (size_t i = 0; i < count; ++i)
    exchanges.push_back({"Once upon a time number " + std::to_string(i), "there was a king"});
  return exchanges;
}

text::Tokenizer bundled_tokenizer() {
  return text::Tokenizer::load(source_dir() / "models" / "tales-moe");
}

TEST(ParseShareGpt, TakesTheFirstTwoTurns) {
  Json list = Json::array({conversation("a", "b"), conversation("c", "d")});
  list[1]["conversations"].push_back({{"from", "human"}, {"value", "more"}});
  EXPECT_EQ(parse_sharegpt(list.dump(), "file"), (std::vector<Exchange>{{"a", "b"}, {"c", "d"}}));
}

TEST(ParseShareGpt, KnowsTheOtherSpelling) {
  Json item = {{"conversation", conversation("a", "b")["conversations"]}};
  EXPECT_EQ(parse_sharegpt(Json::array({item}).dump(), "file"), (std::vector<Exchange>{{"a", "b"}}));
}

TEST(ParseShareGpt, LeavesShortConversationsOut) {
  Json shorter = conversation("a", "b");
  shorter["conversations"].erase(1);
  const Json list = {shorter, conversation("c", "d"), {{"conversations", Json::array()}}};
  EXPECT_EQ(parse_sharegpt(list.dump(), "file"), (std::vector<Exchange>{{"c", "d"}}));
}

struct BadFile {
  const char* text;
  std::vector<const char*> parts;
};

class BadShareGpt : public testing::TestWithParam<BadFile> {};

TEST_P(BadShareGpt, IsRefusedWithTheReason) {
  try {
    parse_sharegpt(GetParam().text, "--dataset-path x.json");
    ADD_FAILURE() << GetParam().text;
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("--dataset-path x.json"));
    for (const char* part : GetParam().parts) EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, BadShareGpt,
    testing::Values(
        BadFile{"", {}}, BadFile{"{\"conversations\": []}", {"array"}},
        BadFile{"[{\"conversations\": [", {"JSON"}}, BadFile{"[]", {"no conversation"}},
        BadFile{"[7]", {"conversation 0", "object", "7"}},
        BadFile{"[{\"conversations\":[]}, {\"turns\":[]}]", {"conversation 1", "\"conversations\""}},
        BadFile{"[{\"conversations\":\"text\"}]", {"conversation 0", "\"conversations\""}},
        BadFile{"[{\"conversations\":[{\"value\":\"a\"},{\"text\":\"b\"}]}]",
                {"conversation 0", "turn 1", "\"value\""}},
        BadFile{"[{\"conversations\":[{\"value\":1},{\"value\":\"b\"}]}]", {"turn 0", "\"value\""}},
        BadFile{"[{\"conversations\":[\"a\",\"b\"]}]", {"turn 0"}},
        BadFile{"[{\"conversations\":[{\"value\":\"a\"}]}]", {"no conversation", "two turns"}}));

TEST(SampleShareGpt, ShufflesByTheSeedWithoutRepeating) {
  const std::vector<Exchange> exchanges = numbered(40);
  const auto prompts = [&](int64_t count, uint64_t seed) {
    std::vector<std::string> texts;
    for (const Request& r :
         sample_sharegpt(exchanges, {.requests = count, .output_tokens = 9}, nullptr, seed)) {
      EXPECT_EQ(r.output_tokens, 9);
      EXPECT_FALSE(r.prompt_tokens);
      texts.push_back(std::get<std::string>(r.prompt));
    }
    return texts;
  };
  EXPECT_EQ(prompts(40, 1), prompts(40, 1));
  EXPECT_NE(prompts(40, 1), prompts(40, 2));
  const std::vector<std::string> all = prompts(100, 3);
  EXPECT_EQ(all.size(), 40u);
  EXPECT_EQ(std::set(all.begin(), all.end()).size(), 40u);
  EXPECT_EQ(prompts(7, 3), std::vector(all.begin(), all.begin() + 7));
}

TEST(SampleShareGpt, CountsWithTheTokenizer) {
  const text::Tokenizer tokenizer = bundled_tokenizer();
  const std::vector<Exchange> exchanges = numbered(3);
  for (const Request& request : sample_sharegpt(exchanges, {.requests = 3}, &tokenizer, 1)) {
    const auto& text = std::get<std::string>(request.prompt);
    EXPECT_EQ(request.prompt_tokens, std::ssize(tokenizer.encode(text, true)));
    EXPECT_EQ(request.output_tokens, std::ssize(tokenizer.encode("there was a king", false)));
  }
}

TEST(SampleShareGpt, LeavesOutWhatIsTooShortOrTooLong) {
  const text::Tokenizer tokenizer = bundled_tokenizer();
  std::string story;
  for (int i = 0; i < 50; ++i) story += "once upon a time there was a king and ";
  const std::vector<Exchange> exchanges = {{"a", "a long reply"},
                                           {"a long prompt", ""},
                                           {"", "a reply"},
                                           {story, story},
                                           {"a fine prompt", "a reply"}};
  const ShareGptShape shape{.requests = 9, .context_tokens = 100};
  const std::vector<Request> requests = sample_sharegpt(exchanges, shape, &tokenizer, 1);
  ASSERT_EQ(requests.size(), 1u);
  EXPECT_EQ(std::get<std::string>(requests[0].prompt), "a fine prompt");
}

}  // namespace
}  // namespace chorale::bench_serve
