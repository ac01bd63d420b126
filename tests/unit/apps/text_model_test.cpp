#include "apps/text_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace chorale::apps {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ParseInputIds, ReadsLists) {
  EXPECT_THAT(parse_input_ids("7", 10), ElementsAre(7));
  EXPECT_THAT(parse_input_ids("1,2,3,0,9", 10), ElementsAre(1, 2, 3, 0, 9));
}

TEST(ParseInputIds, RefusesEverythingElse) {
  for (const char* bad :
       {"", ",", "1,", ",1", "1,,2", "1 2", "1, 2", "a", "1;2", "0x1", "1.5", "99999999999", "+1"}) {
    EXPECT_THROW(parse_input_ids(bad, 10), Error) << bad;
  }
}

TEST(ParseInputIds, NamesTheIdThatIsOutOfRange) {
  for (const char* bad : {"1,10", "1,-1"}) {
    try {
      parse_input_ids(bad, 10);
      FAIL() << bad;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("--input-ids"));
      EXPECT_THAT(error.what(), HasSubstr("0 to 9"));
    }
  }
}

TEST(LoadForOneSequence, RefusesMoreThanTheContextBeforeLoading) {
  io::ModelConfig config;
  config.max_position_embeddings = 100;
  engine::LoadOptions options;
  options.model_path = "/does/not/exist";
  options.context_length = 50;
  for (const int64_t tokens : {51, 101}) {
    try {
      load_for_one_sequence(options, config, tokens, "the input");
      FAIL() << tokens;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("the input has " + std::to_string(tokens) + " tokens"));
      EXPECT_THAT(error.what(), HasSubstr("50"));
    }
  }
}

}  // namespace
}  // namespace chorale::apps
