#include "tools/bench_serve/requests.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "source_dir.h"
#include "tools/bench_serve/load_run.h"

namespace chorale::bench_serve {
namespace {

using Ids = std::vector<int32_t>;

const Ids& ids_of(const Request& request) {
  return std::get<Ids>(request.prompt);
}

TEST(RandomIdRequests, HaveExactlyTheLengthsAskedFor) {
  for (const Request& r : random_id_requests({20, 37, 11, 1.0}, 1000, 5)) {
    EXPECT_EQ(r.prompt_tokens, 37);
    EXPECT_EQ(std::ssize(ids_of(r)), 37);
    EXPECT_EQ(r.output_tokens, 11);
  }
}

TEST(RandomIdRequests, DrawLengthsFromTheWholeRange) {
  std::set<int64_t> prompts;
  std::set<int64_t> outputs;
  for (const Request& r : random_id_requests({2000, 10, 8, 0.5}, 1000, 5)) {
    EXPECT_EQ(r.prompt_tokens, std::ssize(ids_of(r)));
    prompts.insert(std::ssize(ids_of(r)));
    outputs.insert(r.output_tokens);
  }
  EXPECT_EQ(prompts, (std::set<int64_t>{5, 6, 7, 8, 9, 10}));
  EXPECT_EQ(outputs, (std::set<int64_t>{4, 5, 6, 7, 8}));
}

TEST(RandomIdRequests, AreNeverEmpty) {
  for (const Request& r : random_id_requests({500, 2, 1, 0.0}, 10, 5)) {
    EXPECT_GE(ids_of(r).size(), 1u);
    EXPECT_EQ(r.output_tokens, 1);
  }
}

TEST(RandomIdRequests, DrawFromTheVocabularyAndFollowFromTheSeed) {
  const auto first = random_id_requests({30, 50, 5, 0.0}, 7, 5);
  std::set<int32_t> seen;
  for (const Request& r : first) seen.insert(ids_of(r).begin(), ids_of(r).end());
  EXPECT_EQ(seen, (std::set<int32_t>{0, 1, 2, 3, 4, 5, 6}));

  const auto more = random_id_requests({40, 50, 5, 0.0}, 7, 5);
  const auto other = random_id_requests({30, 50, 5, 0.0}, 7, 6);
  size_t same = 0;
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(ids_of(more[i]), ids_of(first[i]));
    same += ids_of(other[i]) == ids_of(first[i]) ? 1 : 0;
  }
  EXPECT_LT(same, first.size() / 2);
}

TEST(RandomTextRequests, HaveExactlyTheLengthsAskedFor) {
  const auto tokenizer = text::Tokenizer::load(source_dir() / "models" / "tales-moe");
  std::set<std::string> texts;
  for (const Request& r : random_text_requests({25, 60, 5, 0.2}, tokenizer, 5)) {
    const auto& text = std::get<std::string>(r.prompt);
    EXPECT_EQ(std::ssize(tokenizer.encode(text, true)), r.prompt_tokens);
    EXPECT_GE(r.prompt_tokens, 12);
    texts.insert(text);
  }
  EXPECT_EQ(texts.size(), 25u);
}

TEST(RequestBody, OfCompletions) {
  const Request request{.prompt = Ids{4, 5}, .prompt_tokens = 2, .output_tokens = 6};
  EXPECT_EQ(nlohmann::json::parse(request_body(request, {.model = "m"})), nlohmann::json::parse(R"({
    "model": "m", "prompt": [4, 5], "max_tokens": 6, "temperature": 0, "ignore_eos": true, "stream": true,
    "stream_options": {"include_usage": true}})"));
}

TEST(RequestBody, OfChatWithMoreMembers) {
  const Request request{.prompt = "hi \xff", .prompt_tokens = {}, .output_tokens = 6};
  const RequestForm form{.endpoint = Endpoint::chat,
                         .model = "m",
                         .ignore_eos = false,
                         .extra = {{"temperature", 0.5}, {"top_k", 3}}};
  EXPECT_EQ(nlohmann::json::parse(request_body(request, form)), nlohmann::json::parse(R"({
    "model": "m", "messages": [{"role": "user", "content": "hi \ufffd"}], "max_tokens": 6, "temperature": 0.5,
    "top_k": 3, "stream": true, "stream_options": {"include_usage": true}})"));
}

}  // namespace
}  // namespace chorale::bench_serve
