// What a stream tells, and when.
#include <chrono>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "unit/server/server_fixture.h"

namespace chorale::server {
namespace {

using namespace std::chrono_literals;
constexpr const char* kChat = "/v1/chat/completions";
constexpr const char* kCompletions = "/v1/completions";

Json hello() {
  return {{"messages", Json::array({{{"role", "user"}, {"content", "Hello"}}})}};
}

Json merge(Json body, const Json& more) {
  body.update(more);
  return body;
}

class StreamsTest : public ServerTest {};

// Clients take the first message for the first token; the headers tell them that they are heard.
TEST_F(StreamsTest, HeadersComeAtOnceAndTheFirstMessageWithTheFirstToken) {
  runner.step_microseconds = 800'000;
  start();
  for (const char* path : {kChat, kCompletions}) {
    RawClient client(port);
    const auto begin = std::chrono::steady_clock::now();
    Json body =
        merge(hello(), {{"prompt", "Once"}, {"max_tokens", 1}, {"stream", true}, {"ignore_eos", true}});
    if (path == kCompletions) body.erase("messages");
    client.post(path, to_text(body));
    ASSERT_TRUE(client.read_until("\r\n\r\n"));
    EXPECT_LT(std::chrono::steady_clock::now() - begin, 700ms);
    ASSERT_TRUE(client.read_until("data: "));
    EXPECT_GE(std::chrono::steady_clock::now() - begin, 790ms) << path;
  }
}

TEST_F(StreamsTest, EachChoiceBeginsWithItsRole) {
  start();
  const std::vector<Json> messages =
      ask_stream(kChat, merge(hello(), {{"n", 3}, {"max_tokens", 9}, {"ignore_eos", true}}));
  std::map<int, int> seen;
  for (const Json& message : messages) {
    const Json& choice = message["choices"][0];
    const bool is_first = seen[choice["index"]]++ == 0;
    EXPECT_EQ(choice["delta"].contains("role"), is_first) << message;
  }
  EXPECT_EQ(seen.size(), 3U);
}

TEST_F(StreamsTest, AFailureBeforeTheFirstTokenIsTheFirstMessage) {
  const std::vector<int32_t> ids = bundled_tokenizer().encode("Once", true);
  runner.nan_after = ids.back();
  start();
  const std::vector<Json> messages = ask_stream(kCompletions, {{"prompt", "Once"}});
  ASSERT_EQ(messages.size(), 1U);
  EXPECT_TRUE(messages[0].contains("error"));
}

TEST_F(StreamsTest, UsageMayComeWithEachMessage) {
  start();
  for (const char* path : {kChat, kCompletions}) {
    Json body = merge(hello(), {{"prompt", "Once"}, {"max_tokens", 6}, {"ignore_eos", true}});
    body.erase(path == kChat ? "prompt" : "messages");
    body["stream_options"] = {{"include_usage", true}, {"continuous_usage_stats", true}};
    const std::vector<Json> messages = ask_stream(path, body);
    int64_t last = 0;
    for (const Json& message : messages) {
      ASSERT_TRUE(message["usage"].is_object()) << message;
      const int64_t tokens = message["usage"]["completion_tokens"];
      EXPECT_GE(tokens, last);
      EXPECT_EQ(message["usage"]["total_tokens"], message["usage"]["prompt_tokens"].get<int64_t>() + tokens);
      last = tokens;
    }
    EXPECT_EQ(last, 6);
    body["stream_options"] = {{"include_usage", false}, {"continuous_usage_stats", true}};
    for (const Json& message : ask_stream(path, body)) EXPECT_FALSE(message.contains("usage")) << message;
  }
}

TEST_F(StreamsTest, TokenIdsAreTheSameStreamedOrNot) {
  start();
  const Json ask_ids = {{"max_tokens", 12}, {"ignore_eos", true}, {"seed", 3}, {"return_token_ids", true}};
  const Json chat_body = merge(hello(), ask_ids);
  const Json whole = ask(kChat, chat_body);
  EXPECT_EQ(whole["choices"][0]["token_ids"].size(), 12U);
  EXPECT_EQ(whole["prompt_token_ids"].size(), whole["usage"]["prompt_tokens"].get<size_t>());
  std::vector<int32_t> ids;
  int prompts = 0;
  for (const Json& message : ask_stream(kChat, chat_body)) {
    if (message.contains("prompt_token_ids")) {
      ++prompts;
      EXPECT_EQ(message["prompt_token_ids"], whole["prompt_token_ids"]);
    }
    for (const Json& id : message["choices"][0].value("token_ids", Json::array())) ids.push_back(id);
  }
  EXPECT_EQ(prompts, 1);
  EXPECT_EQ(Json(ids), whole["choices"][0]["token_ids"]);

  const Json completion_body = merge({{"prompt", Json::array({"Once", "The end"})}}, ask_ids);
  const Json completion = ask(kCompletions, completion_body);
  std::map<int, std::vector<int32_t>> streamed;
  for (const Json& message : ask_stream(kCompletions, completion_body)) {
    const Json& choice = message["choices"][0];
    const int index = choice["index"];
    if (choice.contains("prompt_token_ids")) {
      EXPECT_EQ(choice["prompt_token_ids"],
                completion["choices"][static_cast<size_t>(index)]["prompt_token_ids"]);
    }
    for (const Json& id : choice.value("token_ids", Json::array())) streamed[index].push_back(id);
  }
  for (const auto& [index, tokens] : streamed) {
    EXPECT_EQ(Json(tokens), completion["choices"][static_cast<size_t>(index)]["token_ids"]);
  }
  EXPECT_EQ(streamed.size(), 2U);
}

TEST_F(StreamsTest, ReasoningTokensAreCounted) {
  const std::string output = "<think>\nHm, a dragon.\n</think>\n\nOnce upon a time.";
  runner.script = bundled_tokenizer().encode(output, false);
  runner.script.push_back(kEos);
  chat = text::ChatTemplate::from_source("{{ messages[0].content }}", "", "");
  const Json body = {{"messages", Json::array({{{"role", "user"}, {"content", "Hello"}}})},
                     {"temperature", 0}};
  const std::vector<int32_t> prompt = bundled_tokenizer().encode("Hello", false);
  runner.script_position = std::ssize(prompt) - 1;
  start();
  const auto inside = std::ssize(bundled_tokenizer().encode("\nHm, a dragon.\n", false));
  const Json usage = ask(kChat, body)["usage"];
  EXPECT_GT(usage["completion_tokens_details"]["reasoning_tokens"].get<int64_t>(), inside / 2);
  EXPECT_LE(usage["completion_tokens_details"]["reasoning_tokens"].get<int64_t>(), inside + 1);
  Json streamed = body;
  streamed["stream_options"] = {{"include_usage", true}};
  EXPECT_EQ(ask_stream(kChat, streamed).back()["usage"], usage);
}

TEST_F(StreamsTest, WithoutReasoningNoneIsCounted) {
  start();
  const Json usage =
      ask(kChat, merge(hello(), {{"max_tokens", 8}, {"ignore_eos", true}, {"seed", 1}}))["usage"];
  EXPECT_EQ(usage["completion_tokens_details"]["reasoning_tokens"], 0);
}

TEST_F(StreamsTest, AFinalMessageIsContinued) {
  chat = text::ChatTemplate::from_source(
      "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<end>{% endfor %}"
      "{% if add_generation_prompt %}<assistant>{% endif %}",
      "", "");
  start();
  const auto prompt = [this](const char* content) {
    const Json body = {{"messages", Json::array({{{"role", "user"}, {"content", "Hi"}},
                                                 {{"role", "assistant"}, {"content", content}}})},
                       {"continue_final_message", true},
                       {"return_token_ids", true},
                       {"max_tokens", 1}};
    const std::vector<int32_t> ids = ask(kChat, body)["prompt_token_ids"];
    return bundled_tokenizer().decode(ids, false);
  };
  EXPECT_EQ(prompt("Once upon"), "<user>Hi<end><assistant>Once upon");
  EXPECT_EQ(prompt("Once upon "), "<user>Hi<end><assistant>Once upon");
  EXPECT_EQ(prompt("Hi"), "<user>Hi<end><assistant>Hi");
  const Json last_is_user = merge(hello(), {{"continue_final_message", true}});
  EXPECT_EQ(error_of(kChat, last_is_user, 400).value("param", ""), "continue_final_message");
}

TEST_F(StreamsTest, OutputsKeepTheRulesAboutTheirTokens) {
  start();
  const Json body = {
      {"prompt", "Once"}, {"max_tokens", 40}, {"ignore_eos", true}, {"seed", 9}, {"return_token_ids", true}};
  const Json allowed = ask(kCompletions, merge(body, {{"allowed_token_ids", {100, 200, 300}}}));
  for (const Json& id : allowed["choices"][0]["token_ids"]) EXPECT_TRUE(id == 100 || id == 200 || id == 300);
  EXPECT_EQ(allowed["usage"]["completion_tokens"], 40);
  const std::vector<int32_t> the = bundled_tokenizer().encode(" the", false);
  ASSERT_EQ(the.size(), 1U);
  runner.forced_token = the.front();
  const Json with = ask(kCompletions, merge(body, {{"temperature", 0}}));
  EXPECT_EQ(with["choices"][0]["token_ids"][0], the.front());
  for (const char* word : {"the", " the"}) {
    const Json without =
        ask(kCompletions, merge(body, {{"temperature", 0}, {"bad_words", Json::array({word})}}));
    EXPECT_EQ(without["usage"]["completion_tokens"], 40);
    for (const Json& id : without["choices"][0]["token_ids"]) EXPECT_NE(id, the.front());
  }
}

}  // namespace
}  // namespace chorale::server
