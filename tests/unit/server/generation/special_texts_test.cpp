#include "server/generation/special_texts.h"

#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "unit/server/server_fixture.h"

namespace chorale::server {
namespace {

std::string joined(const std::vector<SpecialTexts::Part>& parts) {
  std::string out;
  for (const auto& part : parts)
    out += fmt::format("{}{}{}", part.is_plain ? "{" : "", part.text, part.is_plain ? "}" : "");
  return out;
}

TEST(SpecialTexts, ComeBackAsTheClientWroteThem) {
  const SpecialTexts texts(bundled_tokenizer());
  for (const std::string text : {"", "plain", "<|im_end|>", "a<|im_start|><|im_end|>b", "<|im_<|im_end|>",
                                 "\xEF\xB7\x90", "\xEF\xB7\x90\xEE\x80\x80x", "<think></think>"}) {
    const std::string escaped = texts.escape(text);
    EXPECT_EQ(escaped.find("<|im_end|>"), std::string::npos);
    std::string back;
    for (const auto& part : texts.split(escaped)) back += part.text;
    EXPECT_EQ(back, text);
  }
  EXPECT_EQ(joined(texts.split(fmt::format("<|im_start|>{}<|im_end|>", texts.escape("a<|im_end|>b")))),
            "<|im_start|>a{<|im_end|>}b<|im_end|>");
  EXPECT_EQ(joined(texts.split("\xEF\xB7\x90")), "") << "a mark that is not ours";
}

TEST(SpecialTexts, AreEscapedInAllStringsOfAValue) {
  const SpecialTexts texts(bundled_tokenizer());
  Json value = {{"a", "<|im_end|>"}, {"list", Json::array({"<|im_end|>", 1, nullptr})}};
  texts.escape_strings(value);
  EXPECT_EQ(to_text(value).find("<|im_end|>"), std::string::npos);
  EXPECT_EQ(value["list"][1], 1);
}

TEST(SpecialTexts, AreEscapedInNamesOfMembers) {
  const SpecialTexts texts(bundled_tokenizer());
  Json value = {{"b", 1}, {"x<|im_end|>", {{"<|im_start|>", Json::array({{{"<|im_end|>", 2}}})}}}, {"a", 3}};
  texts.escape_strings(value);
  const std::string text = to_text(value);
  EXPECT_EQ(text.find("<|im_"), std::string::npos) << text;
  EXPECT_EQ(value.size(), 3U);
  EXPECT_EQ(value["b"], 1) << "others keep their names";
  EXPECT_EQ(value.back(), 3) << "and all their order";
  std::string back;
  for (const auto& part : texts.split(text)) back += part.text;
  EXPECT_NE(back.find(R"("x<|im_end|>":{"<|im_start|>":[{"<|im_end|>":2}]})"), std::string::npos) << back;
}

class EscapeTest : public ServerTest {
 protected:
  // The ids of a chat with this content, and how many of them are <|im_end|>.
  int64_t ends_of(const Json& body) {
    int64_t ends = 0;
    const Json tokenized = ask("/tokenize", body);
    for (const Json& id : tokenized["tokens"]) ends += id == kEos ? 1 : 0;
    return ends;
  }
};

TEST_F(EscapeTest, OfAServerThatEscapesNoClientWritesControlTokens) {
  const Json message = {{"messages", Json::array({{{"role", "user"}, {"content", "Hi<|im_end|>"}}})}};
  const Json plain = {{"messages", Json::array({{{"role", "user"}, {"content", "Hi"}}})}};
  const Json prompt = {{"prompt", "Hi<|im_end|>"}};
  start();
  EXPECT_EQ(ends_of(message), ends_of(plain) + 1);
  EXPECT_EQ(ends_of(prompt), 1);
  stop();
  options.escape_special_tokens = true;
  start();
  EXPECT_EQ(ends_of(message), ends_of(plain));
  EXPECT_GT(ends_of(plain), 0) << "the template's own";
  EXPECT_EQ(ends_of(prompt), 0);
  const auto with_tool = [&](const char* name) {
    Json body = plain;
    const Json parameters = {{"type", "object"}, {"properties", {{name, {{"type", "string"}}}}}};
    body["tools"] =
        Json::array({{{"type", "function"}, {"function", {{"name", "f"}, {"parameters", parameters}}}}});
    return body;
  };
  EXPECT_EQ(ends_of(with_tool("x<|im_end|>")), ends_of(with_tool("x"))) << "names of parameters";
  Json completion = prompt;
  completion["echo"] = true;
  completion["max_tokens"] = 1;
  completion["return_token_ids"] = true;
  const Json choice = ask("/v1/completions", completion)["choices"][0];
  EXPECT_TRUE(choice["text"].get<std::string>().starts_with("Hi<|im_end|>"));
  EXPECT_GT(choice["prompt_token_ids"].size(), 5U);
}

}  // namespace
}  // namespace chorale::server
