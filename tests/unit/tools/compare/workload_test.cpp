#include "tools/compare/workload.h"

#include <set>
#include <string>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "source_dir.h"
#include "tools/load_tokenizer.h"

namespace chorale::tools {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Lt;
using ::testing::SizeIs;
using ::testing::ThrowsMessage;

constexpr int64_t kVocab = 300;
constexpr int64_t kContext = 2048;

TEST(RandomWorkload, IsParsed) {
  EXPECT_EQ(parse_random_workload("random:64x128+64"), (RandomWorkload{64, 128, 64}));
  EXPECT_EQ(parse_random_workload("random:1x1+1"), (RandomWorkload{1, 1, 1}));
  EXPECT_EQ(parse_random_workload("random:65536x1048576+1048576"), (RandomWorkload{65536, 1048576, 1048576}));
}

TEST(RandomWorkload, AnythingElseIsRefusedWithTheFormThatItMustHave) {
  for (const char* text :
       {"", "random", "random:", "64x128+64", "random:64", "random:64x128", "random:64x128+", "random:0x1+1",
        "random:1x0+1", "random:1x1+0", "random:-1x1+1", "random:65537x1+1", "random:1x1048577+1",
        "random:1x1+1048577", "random:1x1+1 ", "random: 1x1+1", "random:1x1+1+1",
        "random:99999999999999999999x1+1", "Random:1x1+1"}) {
    EXPECT_THAT([&] { parse_random_workload(text); },
                ThrowsMessage<Error>(AllOf(HasSubstr("--workload"), HasSubstr("random:64x128+64"),
                                           HasSubstr(fmt::format("\"{}\"", text)))))
        << text;
  }
}

TEST(RandomWorkload, HasTheShapeThatWasAskedFor) {
  const Workload workload = make_random({5, 20, 7}, kVocab, kContext, 1);
  ASSERT_THAT(workload.requests, SizeIs(5));
  EXPECT_EQ(workload.prompt_tokens(), 100);
  EXPECT_EQ(workload.max_new_tokens(), 35);
  EXPECT_EQ(workload.longest(), 27);
  std::set<std::string> ids;
  std::set<uint64_t> seeds;
  std::set<std::vector<int32_t>> prompts;
  for (const engine::GenerationRequest& request : workload.requests) {
    EXPECT_THAT(request.prompt_ids, AllOf(SizeIs(20), Each(AllOf(Ge(0), Lt(kVocab)))));
    EXPECT_EQ(request.sampling.temperature, 1);
    EXPECT_TRUE(request.sampling.ignore_eos);
    EXPECT_GT(request.num_top_logprobs, 0);
    EXPECT_FALSE(request.validate(kVocab).has_value());
    ids.insert(request.id);
    seeds.insert(request.sampling.seed.value());
    prompts.insert(request.prompt_ids);
  }
  EXPECT_THAT(ids, SizeIs(5));
  EXPECT_THAT(seeds, SizeIs(5));
  EXPECT_THAT(prompts, SizeIs(5));
}

TEST(RandomWorkload, FollowsFromTheSeed) {
  const auto first_prompt = [](uint64_t seed) {
    return make_random({1, 30, 1}, kVocab, kContext, seed).requests.front();
  };
  EXPECT_EQ(first_prompt(3).prompt_ids, first_prompt(3).prompt_ids);
  EXPECT_EQ(first_prompt(3).sampling.seed, first_prompt(3).sampling.seed);
  EXPECT_NE(first_prompt(3).prompt_ids, first_prompt(4).prompt_ids);
  EXPECT_NE(first_prompt(3).sampling.seed, first_prompt(4).sampling.seed);
}

TEST(RandomWorkload, MustFitIntoTheContext) {
  EXPECT_EQ(make_random({1, 20, 12}, kVocab, 32, 0).longest(), 32);
  EXPECT_THAT(
      [] {
        make_random({1, 20, 13}, kVocab, 32, 0);
      },
      ThrowsMessage<Error>(
          AllOf(HasSubstr("--workload"), HasSubstr("20"), HasSubstr("13"), HasSubstr("32"))));
}

TEST(Prompts, ALineEach) {
  EXPECT_THAT(parse_prompts("first\n\n  second \r\n \nthird", "F", 9),
              ElementsAre(Prompt{"first", 9, 1}, Prompt{"  second ", 9, 3}, Prompt{"third", 9, 5}));
}

TEST(Prompts, OrAJsonObjectEach) {
  EXPECT_THAT(parse_prompts(
                  "\n{\"prompt\": \"a\\nb\", \"max_tokens\": 3}\n{\"other\": 1, \"prompt\": \"\"}\n", "F", 9),
              ElementsAre(Prompt{"a\nb", 3, 2}, Prompt{"", 9, 3}));
}

TEST(Prompts, MistakesAreToldWithTheirLine) {
  const auto error_of = [](const char* text) -> std::string {
    try {
      parse_prompts(text, "--prompts F", 9);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(error_of(""), HasSubstr("--prompts F: there is no prompt"));
  EXPECT_THAT(error_of(" \n\n"), HasSubstr("--prompts F: there is no prompt"));
  EXPECT_THAT(error_of("ok\nbad \xff"), HasSubstr("--prompts F, line 2: the text is not valid UTF-8"));
  EXPECT_THAT(error_of("{\"prompt\": \"a\"}\n\nplain"),
              HasSubstr("--prompts F, line 3: expected a JSON object"));
  EXPECT_THAT(error_of("{\"prompt\": \"a\""), HasSubstr("--prompts F, line 1: expected a JSON object"));
  EXPECT_THAT(error_of("{\"text\": \"a\"}"), HasSubstr("--prompts F, line 1: expected a text \"prompt\""));
  EXPECT_THAT(error_of("{\"prompt\": 5}"), HasSubstr("expected a text \"prompt\""));
  for (const char* tokens : {"0", "-1", "1.5", "\"7\"", "null", "1048577", "1e3"}) {
    EXPECT_THAT(error_of(("{\"prompt\": \"a\", \"max_tokens\": " + std::string(tokens) + "}").c_str()),
                HasSubstr("line 1: expected \"max_tokens\" to be a number from 1 to 1048576"))
        << tokens;
  }
}

TEST(Prompts, BecomeRequests) {
  const std::string folder = source_dir() / "models/tales-moe";
  const text::Tokenizer tokenizer = load_tokenizer(folder, io::load_model_config(folder));
  const Workload workload =
      make_from_prompts({{"Once upon a time", 5, 1}, {"a king", 6, 4}}, tokenizer, "F", kContext, 0);
  ASSERT_THAT(workload.requests, SizeIs(2));
  EXPECT_EQ(workload.requests[0].prompt_ids, tokenizer.encode("Once upon a time", true));
  EXPECT_EQ(workload.requests[0].sampling.max_new_tokens, 5);
  EXPECT_EQ(workload.requests[1].sampling.max_new_tokens, 6);
  EXPECT_FALSE(workload.requests[1].sampling.ignore_eos);
  EXPECT_THAT(
      [&] {
        make_from_prompts({{"", 5, 3}}, tokenizer, "F", kContext, 0);
      },
      ThrowsMessage<Error>(HasSubstr("F, line 3: the prompt has no tokens")));
  EXPECT_THAT(
      [&] {
        make_from_prompts({{"a king", 2048, 7}}, tokenizer, "F", kContext, 0);
      },
      ThrowsMessage<Error>(HasSubstr("F, line 7: 2 prompt tokens and 2048 new ones")));
}

}  // namespace
}  // namespace chorale::tools
