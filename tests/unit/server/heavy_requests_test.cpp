// Requests whose work or answer is large: what a server takes on of them, and what it tells of the rest.
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "unit/server/server_fixture.h"

namespace chorale::server {
namespace {

class HeavyRequestsTest : public ServerTest {};

std::string long_text(size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += "Once upon a time there was a fox. ";
  return text;
}

TEST_F(HeavyRequestsTest, ATextThatCannotFitIsTooLongInEveryEndpoint) {
  start();
  const std::string text = long_text(4'000'000);
  const Json messages = Json::array({{{"role", "user"}, {"content", text}}});
  for (const auto& [path, body] : std::vector<std::pair<const char*, Json>>{
           {"/v1/completions", {{"prompt", text}}},
           {"/v1/completions", {{"prompt", Json::array({"short", text})}}},
           {"/v1/chat/completions", {{"messages", messages}}},
           {"/generate", {{"text", text}}}}) {
    const Json error = error_of(path, body, 400);
    EXPECT_EQ(error.value("code", ""), "context_length_exceeded") << path;
    EXPECT_NE(error.value("message", "").find("maximum context length is 512 tokens"), std::string::npos);
  }
  const std::string part = text.substr(0, 1'000'000);
  EXPECT_EQ(ask("/tokenize", {{"prompt", part}})["count"], bundled_tokenizer().encode(part, true).size())
      << "here nothing has to fit";
}

TEST_F(HeavyRequestsTest, ManyTemplateVariablesAreRead) {
  start();
  Json variables = Json::object();
  for (int i = 0; i < 100; ++i) variables[fmt::format("name{}", i)] = i;
  Json body = {{"messages", Json::array({{{"role", "user"}, {"content", "Hi"}}})},
               {"chat_template_kwargs", variables},
               {"max_tokens", 1}};
  ask("/v1/chat/completions", body);
  for (const char* name : {"messages", "tools", "add_generation_prompt"}) {
    body["chat_template_kwargs"] = {{"other", 1}, {name, true}};
    EXPECT_EQ(error_of("/v1/chat/completions", body, 400).value("param", ""),
              fmt::format("chat_template_kwargs.{}", name));
  }
}

TEST_F(HeavyRequestsTest, ALongAnswerComesInPartsThatAreTheWhole) {
  engine_options.max_logits_rows = 1024;
  start();
  // Of echo and logprobs: far more than a MiB.
  const Json body = {
      {"prompt", Json::array()}, {"echo", true}, {"logprobs", 20}, {"max_tokens", 1}, {"temperature", 0}};
  Json one = body;
  one["prompt"] = long_text(1500);
  Json many = body;
  for (int i = 0; i < 16; ++i) many["prompt"].push_back(one["prompt"]);
  const RawResponse response = post("/v1/completions", many);
  EXPECT_EQ(response.headers.count("Transfer-Encoding"), 1U);
  EXPECT_GT(response.body.size(), size_t{1} << 20);
  const Json answer = Json::parse(response.body);
  const Json alone = ask("/v1/completions", one);
  ASSERT_EQ(answer["choices"].size(), 16U);
  for (const Json& choice : answer["choices"]) {
    EXPECT_EQ(choice["logprobs"], alone["choices"][0]["logprobs"]);
    EXPECT_EQ(choice["text"], alone["choices"][0]["text"]);
  }
}

TEST_F(HeavyRequestsTest, AnswersHaveABudget) {
  options.max_answer_bytes = 200'000;
  start();
  const Json small = {{"prompt", "Once"}, {"max_tokens", 4}};
  Json large = {{"prompt", long_text(1500)}, {"max_tokens", 1}, {"echo", true}, {"logprobs", 20}};
  EXPECT_EQ(post("/v1/completions", large).status, 200);
  large["prompt"] = Json::array({large["prompt"], large["prompt"], large["prompt"], large["prompt"]});
  EXPECT_EQ(post("/v1/completions", large).status, 400) << "more than there is for all";

  // What grows beyond it ends; what others need is there again.
  const Json growing = {{"prompt", "Once"}, {"max_tokens", 500}, {"logprobs", 20}, {"ignore_eos", true},
                        {"n", 8},           {"temperature", 1}};
  EXPECT_EQ(post("/v1/completions", growing).status, 503);
  EXPECT_TRUE(eventually([&] { return engine_is_empty(); }));
  EXPECT_EQ(post("/v1/completions", small).status, 200);
}

}  // namespace
}  // namespace chorale::server
