#include "server/generation/text_generation.h"

#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "unit/server/server_fixture.h"

namespace chorale::server {
namespace {

using engine::FinishReason;

struct Outcome {
  std::string text;
  std::vector<int32_t> ids;
  std::vector<int64_t> offsets;
  TextPiece last;
  bool aborted = false;
};

// Feeds tokens in events of random sizes; the last event has the finish reason.
Outcome run(const std::vector<int32_t>& ids, TextOptions options, uint32_t seed = 1,
            std::optional<int32_t> stop_token = std::nullopt) {
  std::mt19937 random(seed);
  TextGeneration generation(bundled_tokenizer(), std::move(options));
  Outcome out;
  for (size_t at = 0; at < ids.size() && !generation.finished();) {
    engine::GenerationEvent event;
    for (size_t n = 1 + random() % 3; n > 0 && at < ids.size(); --n) {
      event.token_ids.push_back(ids[at++]);
      event.logprobs.push_back({-1.0F, {}});
    }
    if (at == ids.size()) {
      event.finish = stop_token ? FinishReason::stop : FinishReason::length;
      event.matched_stop_token = stop_token;
    }
    TextPiece piece = generation.consume(std::move(event));
    out.text += piece.text;
    out.ids.insert(out.ids.end(), piece.token_ids.begin(), piece.token_ids.end());
    out.offsets.insert(out.offsets.end(), piece.text_offsets.begin(), piece.text_offsets.end());
    EXPECT_EQ(piece.logprobs.size(), piece.token_ids.size());
    EXPECT_EQ(piece.num_completion_tokens, static_cast<int64_t>(out.ids.size()));
    out.aborted = out.aborted || piece.abort_request;
    out.last = std::move(piece);
  }
  EXPECT_TRUE(generation.finished());
  const TextPiece after = generation.consume({.token_ids = {1}});
  EXPECT_TRUE(after.text.empty() && after.token_ids.empty() && after.finish == FinishReason::none);
  return out;
}

const std::string kText =
    "Once upon a time \xF0\x9F\x90\x89 there was a caf\xC3\xA9, a dragon and a king.\n\nThe end";

TEST(TextGeneration, GivesTheWholeTextHoweverTheTokensCome) {
  const std::vector<int32_t> ids = bundled_tokenizer().encode(kText, false);
  for (uint32_t seed = 0; seed < 50; ++seed) {
    const Outcome out = run(ids, {.stop = {"never in there", "The endless"}}, seed);
    EXPECT_EQ(out.text, bundled_tokenizer().decode(ids, true));
    EXPECT_EQ(out.ids, ids);
    EXPECT_EQ(out.last.finish, FinishReason::length);
    EXPECT_FALSE(out.aborted);
  }
}

TEST(TextGeneration, StopsBeforeAStopStringAndCountsItsToken) {
  const std::vector<int32_t> ids = bundled_tokenizer().encode(kText, false);
  for (uint32_t seed = 0; seed < 50; ++seed) {
    const Outcome out = run(ids, {.stop = {"dragon and"}}, seed);
    EXPECT_EQ(out.text, kText.substr(0, kText.find("dragon and")));
    EXPECT_EQ(out.last.finish, FinishReason::stop);
    EXPECT_EQ(out.last.matched_stop_string, "dragon and");
    EXPECT_TRUE(out.aborted);
    const std::string seen = bundled_tokenizer().decode(out.ids, true);
    EXPECT_NE(seen.find("dragon and"), std::string::npos);
    const std::vector<int32_t> without_last(out.ids.begin(), out.ids.end() - 1);
    EXPECT_EQ(bundled_tokenizer().decode(without_last, true).find("dragon and"), std::string::npos);
  }
  EXPECT_EQ(run(ids, {.stop = {"dragon and"}, .include_stop = true}).text,
            kText.substr(0, kText.find("dragon and") + 10));
}

TEST(TextGeneration, LeavesTheFirstTokensAlone) {
  const std::vector<int32_t> ids = bundled_tokenizer().encode("a king a king a king", false);
  EXPECT_EQ(run(ids, {.stop = {"king"}}).text, "a ");
  int64_t first_king = 1;
  while (
      bundled_tokenizer().decode(std::span(ids).first(static_cast<size_t>(first_king)), true).find("king") ==
      std::string::npos) {
    ++first_king;
  }
  const Outcome out = run(ids, {.stop = {"king"}, .min_new_tokens = first_king});
  EXPECT_EQ(out.text, "a king a ");
  EXPECT_EQ(out.last.finish, FinishReason::stop);
}

TEST(TextGeneration, LeavesTheStopTokenOutOfTheText) {
  std::vector<int32_t> ids = bundled_tokenizer().encode("The king", false);
  ids.push_back(ids.front());  // an ordinary token that was asked to stop
  const Outcome out = run(ids, {}, 1, ids.front());
  EXPECT_EQ(out.text, "The king");
  EXPECT_EQ(out.ids, ids);
  EXPECT_EQ(out.last.matched_stop_token, ids.front());
  EXPECT_EQ(run(ids, {.include_stop = true}, 1, ids.front()).text, bundled_tokenizer().decode(ids, true));

  ids.back() = kEos;
  EXPECT_EQ(run(ids, {.skip_special_tokens = false}, 1, kEos).text, "The king");
  EXPECT_EQ(run(ids, {.include_stop = true, .skip_special_tokens = false}, 1, kEos).text,
            "The king<|im_end|>");
}

TEST(TextGeneration, TellsWhereEachTokenStarts) {
  const std::vector<int32_t> ids = bundled_tokenizer().encode(kText, false);
  const Outcome out = run(ids, {});
  ASSERT_EQ(out.offsets.size(), ids.size());
  int64_t before = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    EXPECT_GE(out.offsets[i], before);
    before = out.offsets[i];
  }
  const std::vector<int32_t> all_but_last(ids.begin(), ids.end() - 1);
  EXPECT_EQ(out.offsets.back(), count_characters(bundled_tokenizer().decode(all_but_last, false)));
}

// What the length cuts off is left out; what the model ends by itself is as it is.
TEST(TextGeneration, ACharacterThatTheLengthCutsIsLeftOut) {
  for (const std::string text : {"caf\xC3\xA9", "snow \xE2\x98\x83", "a \xF0\x9F\x90\x89"}) {
    std::vector<int32_t> ids = bundled_tokenizer().encode(text, false);
    const std::string last = bundled_tokenizer().token_bytes(ids.back());
    ASSERT_EQ(last.size(), 1U) << "the character has to be made of bytes for this test";
    ids.pop_back();
    const std::string whole = text.substr(0, text.find_first_of("\xC3\xE2\xF0"));
    for (uint32_t seed = 1; seed < 5; ++seed) EXPECT_EQ(run(ids, {}, seed).text, whole);
    const Outcome stopped = run(ids, {}, 1, ids.back());
    EXPECT_TRUE(stopped.text.starts_with(whole));
  }
}

TEST(TextGeneration, PassesErrorsOn) {
  TextGeneration generation(bundled_tokenizer(), {});
  const TextPiece piece =
      generation.consume({.finish = FinishReason::error,
                          .error = RequestError{.kind = RequestError::Kind::failed, .message = "bad"}});
  EXPECT_EQ(piece.finish, FinishReason::error);
  ASSERT_TRUE(piece.error);
  EXPECT_EQ(piece.error->message, "bad");
}

}  // namespace
}  // namespace chorale::server
