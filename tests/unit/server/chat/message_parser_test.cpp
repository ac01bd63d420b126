#include "server/chat/message_parser.h"

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "server/generation/text_generation.h"
#include "server/wire/json_body.h"
#include "source_dir.h"
#include "text/tokenizer.h"
#include "unit/temporary_folder.h"

namespace chorale::server {
namespace {

// The bundled tokenizer, where all added tokens are special.
text::Tokenizer special_tokenizer(const std::filesystem::path& folder) {
  std::ifstream bundled(source_dir() / "models/tales-moe/tokenizer.json");
  Json json = Json::parse(bundled);
  for (Json& token : json["added_tokens"]) token["special"] = true;
  std::ofstream(folder / "tokenizer.json") << json.dump();
  return text::Tokenizer::load(folder);
}

// What comes of the text's tokens, each an event of its own.
MessagePiece parse(const text::Tokenizer& tokenizer, const std::string& text, MessageOptions options) {
  TextOptions text_options;
  text_options.kept_tokens = tag_tokens(tokenizer, options);
  TextGeneration generation(tokenizer, text_options);
  MessageParser parser(std::make_shared<const MessageOptions>(std::move(options)));
  MessagePiece all;
  const auto add = [&](const MessagePiece& piece) {
    all.reasoning += piece.reasoning;
    all.content += piece.content;
    for (const ToolCallDelta& call : piece.calls) {
      if (call.name) {
        all.calls.push_back(call);
      } else {
        all.calls.back().arguments += call.arguments;
      }
    }
  };
  for (const int32_t id : tokenizer.encode(text, false)) {
    add(parser.push(generation.consume({.token_ids = {id}}).text));
  }
  add(parser.finish());
  return all;
}

TEST(MessageParser, TagsThatAreSpecialTokensAreNotSkipped) {
  const TemporaryFolder folder;
  const text::Tokenizer tokenizer = special_tokenizer(folder.path());
  ASSERT_TRUE(tokenizer.is_special(*tokenizer.token_to_id("<tool_call>")));
  ASSERT_TRUE(tokenizer.is_special(*tokenizer.token_to_id("<think>")));
  const std::string call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
  MessageOptions options;
  options.parse_calls = true;
  options.tools = {{"now", nullptr}};
  const MessagePiece parsed = parse(tokenizer, "<think>\nWell.\n</think>\n\n" + call + "<|im_end|>", options);
  EXPECT_EQ(parsed.reasoning, "Well.");
  EXPECT_EQ(parsed.content, "");
  ASSERT_EQ(parsed.calls.size(), 1U);
  EXPECT_EQ(parsed.calls[0].name, "now");
  EXPECT_EQ(parsed.calls[0].arguments, "{}");
  // Without tools there is no parser that needs the tags of calls.
  const MessagePiece plain = parse(tokenizer, "<think>a</think>b<tool_call>c", {});
  EXPECT_EQ(plain.reasoning, "a");
  EXPECT_EQ(plain.content, "bc");
}

}  // namespace
}  // namespace chorale::server
