#include "apps/conversation.h"

#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace chorale::apps {
namespace {

using Kind = ChatLine::Kind;
using server::Json;

TEST(ChatLine, TellsCommandsFromMessages) {
  const std::vector<std::pair<std::string, ChatLine>> cases = {
      {"", {Kind::nothing, ""}},
      {"  \t ", {Kind::nothing, ""}},
      {"Hello there", {Kind::message, "Hello there"}},
      {"  two\n  lines \n", {Kind::message, "two\n  lines"}},
      {"/help", {Kind::help, ""}},
      {"/?", {Kind::help, ""}},
      {" /exit ", {Kind::leave, ""}},
      {"/quit", {Kind::leave, ""}},
      {"/bye", {Kind::leave, ""}},
      {"/clear", {Kind::clear, ""}},
      {"/new", {Kind::clear, ""}},
      {"/reset", {Kind::clear, ""}},
      {"/regen", {Kind::again, ""}},
      {"/retry", {Kind::again, ""}},
      {"/system  Be brief. ", {Kind::system, "Be brief."}},
      {"/system Be\nbrief.", {Kind::system, "Be\nbrief."}},
      {"/system", {Kind::system, ""}},
      {"/regne", {Kind::unknown, "/regne"}},
      {"/Exit", {Kind::unknown, "/Exit"}},
      {"/save a file", {Kind::unknown, "/save"}},
      // For the model:
      {"/no_think What is it?", {Kind::message, "/no_think What is it?"}},
      {"/think", {Kind::message, "/think"}},
      {"/usr/bin is full", {Kind::message, "/usr/bin is full"}},
      {"/", {Kind::message, "/"}},
      {"/2 of it", {Kind::message, "/2 of it"}},
      {"say /help", {Kind::message, "say /help"}},
      {"// a comment", {Kind::message, "// a comment"}}};
  for (const auto& [line, expected] : cases) {
    const ChatLine read = read_chat_line(line);
    EXPECT_EQ(read.kind, expected.kind) << line;
    EXPECT_EQ(read.text, expected.text) << line;
  }
}

TEST(ChatLine, HelpNamesEveryCommand) {
  const std::string help = chat_help();
  for (const char* name : {"/help", "/?", "/clear", "/new", "/reset", "/system TEXT", "/regen", "/retry",
                           "/exit", "/quit", "/bye", "Ctrl-C", "Ctrl-D"})
    EXPECT_THAT(help, testing::HasSubstr(name));
}

TEST(ChatLine, SuggestsTheNearestCommand) {
  EXPECT_EQ(nearest_chat_command("/regne"), "/regen");
  EXPECT_EQ(nearest_chat_command("/exti"), "/exit");
  EXPECT_EQ(nearest_chat_command("/frequency"), std::nullopt);
}

TEST(Conversation, KeepsWhatWasSaid) {
  Conversation chat;
  EXPECT_EQ(chat.messages(), Json::array());
  EXPECT_FALSE(chat.reopen());
  chat.set_system("Be brief.");
  chat.ask("Hi");
  chat.answer("Hello.", "A greeting.");
  chat.ask("Bye");
  const Json system = {{"role", "system"}, {"content", "Be brief."}};
  const Json hi = {{"role", "user"}, {"content", "Hi"}};
  const Json hello = {{"role", "assistant"}, {"content", "Hello."}, {"reasoning_content", "A greeting."}};
  const Json bye = {{"role", "user"}, {"content", "Bye"}};
  EXPECT_EQ(chat.messages(), Json::array({system, hi, hello, bye}));
  chat.answer("See you.", "");
  EXPECT_EQ(chat.messages().back(), Json({{"role", "assistant"}, {"content", "See you."}}));

  EXPECT_TRUE(chat.reopen());
  EXPECT_EQ(chat.messages(), Json::array({system, hi, hello, bye}));
  EXPECT_TRUE(chat.reopen());  // it is open already
  EXPECT_EQ(chat.messages(), Json::array({system, hi, hello, bye}));

  chat.set_system("");
  EXPECT_EQ(chat.messages(), Json::array({hi, hello, bye}));
  chat.set_system("Be brief.");
  chat.clear();
  EXPECT_EQ(chat.messages(), Json::array({system}));
}

}  // namespace
}  // namespace chorale::apps
