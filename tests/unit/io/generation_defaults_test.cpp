#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/model_config.h"
#include "source_dir.h"
#include "test_files.h"

namespace chorale::io {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

TEST(GenerationDefaults, ReadsTheBundledModel) {
  const GenerationDefaults d = load_generation_defaults(source_dir() / "models/tales-moe");
  EXPECT_EQ(d.do_sample, true);
  EXPECT_EQ(d.temperature, 0.7);
  EXPECT_EQ(d.top_k, 20);
  EXPECT_EQ(d.top_p, 0.9);
  EXPECT_EQ(d.min_p, std::nullopt);
  EXPECT_EQ(d.repetition_penalty, std::nullopt);
  EXPECT_EQ(d.max_new_tokens, std::nullopt);
  EXPECT_THAT(d.eos_token_ids, ElementsAre(4066, 4064));
}

TEST(GenerationDefaults, AbsentAndNullAreNotGiven) {
  TemporaryFolder folder;
  EXPECT_EQ(load_generation_defaults(folder.path()), GenerationDefaults{});
  EXPECT_EQ(parse_generation_defaults("{}", "g"), GenerationDefaults{});
  EXPECT_EQ(parse_generation_defaults(R"({"temperature":null,"top_k":null,"eos_token_id":null})", "g"),
            GenerationDefaults{});
}

TEST(GenerationDefaults, ReadsEveryField) {
  GenerationDefaults expected;
  expected.temperature = 0;
  expected.top_p = 1;
  expected.min_p = 0.05;
  expected.repetition_penalty = 1.1;
  expected.top_k = -1;
  expected.do_sample = false;
  expected.max_new_tokens = 32;
  expected.eos_token_ids = {9};
  EXPECT_EQ(parse_generation_defaults(
                R"({"temperature":0,"top_p":1.0,"min_p":0.05,"repetition_penalty":1.1,"top_k":-1,
                                          "do_sample":false,"max_new_tokens":32,"eos_token_id":9,"other":[{}]})",
                "g"),
            expected);
}

TEST(GenerationDefaults, RefusesBadFields) {
  struct Case {
    std::string field;
    std::string value;
    std::string expected;
  };
  const Case cases[] = {
      {"temperature", "-0.1", "a finite number from 0 up, found -0.1"},
      {"temperature", "\"hot\"", "found \"hot\""},
      {"top_p", "0", "above 0 to 1, found 0"},
      {"top_p", "1.5", "above 0 to 1, found 1.5"},
      {"min_p", "2", "from 0 to 1, found 2"},
      {"repetition_penalty", "0", "above 0, found 0"},
      {"top_k", "-2", "an integer from -1"},
      {"top_k", "1.5", "found 1.5"},
      {"do_sample", "1", "true or false, found 1"},
      {"max_new_tokens", "0", "an integer from 1"},
      {"eos_token_id", "-1", "an integer from 0"},
      {"eos_token_id", "[1,[2]]", "found an array"},
      {"eos_token_id", "{}", "found an object"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.field + " " + c.value);
    const std::string text = fmt::format(R"({{"{}":{}}})", c.field, c.value);
    const std::string message =
        error_of([&] { parse_generation_defaults(text, "dir/generation_config.json"); });
    EXPECT_THAT(message,
                StartsWith(fmt::format("dir/generation_config.json: field \"{}\": expected ", c.field)));
    EXPECT_THAT(message, HasSubstr(c.expected));
  }
  EXPECT_THAT(error_of([&] { parse_generation_defaults("[", "g"); }), HasSubstr("g: "));
}

TEST(GenerationDefaults, NamesTheFile) {
  TemporaryFolder folder;
  folder.write("generation_config.json", "{\"top_p\":7}");
  EXPECT_THAT(error_of([&] { load_generation_defaults(folder.path()); }),
              StartsWith((folder / "generation_config.json").string() + ": field \"top_p\""));
}

}  // namespace
}  // namespace chorale::io
