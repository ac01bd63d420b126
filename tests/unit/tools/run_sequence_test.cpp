#include "tools/run_sequence.h"

#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "unit/tools/sine_runner.h"

namespace chorale::tools {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(RunSequence, GivesEveryTokensLogitsWhateverTheChunks) {
  std::vector<int32_t> ids(100);
  std::iota(ids.begin(), ids.end(), 0);
  for (const int64_t chunk : {1, 7, 32, 33, 99, 100, 4096}) {
    SineRunner runner(128);
    int64_t next = 0;
    run_sequence(runner, ids, chunk, [&](int64_t first, std::span<const float> logits) {
      EXPECT_EQ(first, next);
      for (size_t i = 0; i < logits.size(); ++i) {
        const auto row = static_cast<int64_t>(i) / 128;
        ASSERT_EQ(logits[i], SineRunner::logit(ids[static_cast<size_t>(first + row)], first + row,
                                               static_cast<int64_t>(i) % 128));
      }
      next += static_cast<int64_t>(logits.size()) / 128;
    });
    EXPECT_EQ(next, 100) << "chunk " << chunk;
  }
}

TEST(RunSequence, CutsChunksOfTheSizeAsked) {
  SineRunner runner(16);
  run_sequence(runner, std::vector<int32_t>(10, 3), 4, [](int64_t, std::span<const float>) {});
  EXPECT_THAT(runner.chunk_sizes, ElementsAre(4, 4, 2));
}

TEST(RunSequence, RefusesIdsOutsideTheVocabularyBeforeRunning) {
  for (const int32_t bad : {-1, 16}) {
    SineRunner runner(16);
    try {
      run_sequence(runner, std::vector<int32_t>{1, bad}, 1, [](int64_t, std::span<const float>) {});
      FAIL() << "expected an error";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("token 1"));
      EXPECT_THAT(error.what(), HasSubstr(std::to_string(bad)));
      EXPECT_THAT(error.what(), HasSubstr("0 to 15"));
    }
    EXPECT_TRUE(runner.chunk_sizes.empty());
  }
}

}  // namespace
}  // namespace chorale::tools
