// What becomes of the text that a model writes in a chat: reasoning, content, tool calls, as a whole and
// streamed.
#include "server/chat/messages.h"

#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "server/wire/bad_request.h"
#include "unit/server/server_fixture.h"

namespace chorale::server {
namespace {

constexpr const char* kChat = "/v1/chat/completions";
constexpr const char* kCall =
    "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";

// As Qwen3-Coder's, as far as it matters here.
constexpr const char* kXmlTemplate = R"({%- for tool in tools or [] %}{{ tool | tojson }}
{% endfor %}{% if tools %}<tool_call>
<function=example>
</function>
</tool_call>{% endif %}
{%- for message in messages %}{{ message.content }}
{%- for call in message.tool_calls or [] %}<function={{ call.function.name }}>
{%- for key, value in call.function.arguments | items %}<parameter={{ key }}>{{ value }}</parameter>{% endfor %}
{%- endfor %}{% endfor %})";

class ChatMessageTest : public ServerTest {
 protected:
  static Json request() {
    return {{"messages", Json::array({{{"role", "user"}, {"content", "Hello"}}})},
            {"temperature", 0},
            {"max_tokens", 150}};
  }
  static Json with_tools(Json more = Json::object()) {
    Json body = request();
    body["tools"] = Json::array(
        {{{"type", "function"},
          {"function",
           {{"name", "weather"},
            {"parameters",
             {{"type", "object"},
              {"properties", {{"city", {{"type", "string"}}}, {"days", {{"type", "integer"}}}}}}}}}}});
    body.update(more);
    return body;
  }

  // Makes the model answer `body` with `text`.
  void script(const std::string& text, Json body) {
    body["max_tokens"] = 1;
    body.erase("n");
    runner.script.clear();
    runner.script_position = ask(kChat, body)["usage"]["prompt_tokens"].get<int64_t>() - 1;
    runner.script = bundled_tokenizer().encode(text, false);
    runner.script.push_back(kEos);
  }

  // The first choice of the answer to `body` when the model writes `text`; the stream's must be the same.
  Json answer(const std::string& text, const Json& body) {
    script(text, body);
    const Json choice = ask(kChat, body)["choices"][0];
    Json logprobs;
    const Json streamed = together(ask_stream(kChat, body), 0, logprobs);
    Json expected = {{"message", choice["message"]}, {"finish_reason", choice["finish_reason"]}};
    Json message = expected["message"];
    message.erase("refusal");
    if (message["content"].is_null()) message["content"] = "";
    if (message["reasoning_content"].is_null()) message.erase("reasoning_content");
    // Ids belong to one answer.
    for (Json& call : message.value("tool_calls", Json::array())) {
      EXPECT_TRUE(call["id"].get<std::string>().starts_with("call_"));
    }
    EXPECT_EQ(without_ids(streamed["message"]), without_ids(message));
    EXPECT_EQ(streamed["finish_reason"], choice["finish_reason"]);
    if (!choice["logprobs"].is_null()) {
      EXPECT_EQ(logprobs, choice["logprobs"]["content"]);
    }
    return choice;
  }

  static Json without_ids(Json message) {
    if (!message.contains("tool_calls")) return message;
    for (Json& call : message["tool_calls"]) call.erase("id");
    return message;
  }

  // A choice's deltas put together as clients do.
  static Json together(const std::vector<Json>& messages, int64_t index, Json& logprobs) {
    Json message = Json::object();
    Json finish;
    logprobs = Json::array();
    for (const Json& chunk : messages) {
      for (const Json& choice : chunk["choices"]) {
        if (choice["index"] != index) continue;
        EXPECT_TRUE(finish.is_null()) << "nothing comes after the finish reason";
        finish = choice["finish_reason"];
        if (!choice["logprobs"].is_null()) {
          for (const Json& entry : choice["logprobs"]["content"]) logprobs.push_back(entry);
        }
        for (const auto& [name, value] : choice["delta"].items()) {
          if (name == "tool_calls") {
            for (const Json& call : value) add_call(message[name], call);
          } else {
            message[name] = message.value(name, "") + value.get<std::string>();
          }
        }
      }
    }
    return {{"message", message}, {"finish_reason", finish}};
  }

  static void add_call(Json& calls, const Json& delta) {
    const auto index = delta["index"].get<size_t>();
    if (delta.contains("id")) {
      EXPECT_EQ(index, calls.size());
      EXPECT_EQ(delta["function"]["arguments"], "");
      Json call = delta;
      call.erase("index");
      calls.push_back(call);
    } else {
      EXPECT_EQ(index + 1, calls.size());
      EXPECT_EQ(delta.size(), 2U);
      Json& arguments = calls.back()["function"]["arguments"];
      arguments = arguments.get<std::string>() + delta["function"]["arguments"].get<std::string>();
    }
  }
};

TEST_F(ChatMessageTest, ACallIsNotContent) {
  start();
  const Json choice = answer(kCall, with_tools());
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_TRUE(choice["message"]["content"].is_null());
  ASSERT_EQ(choice["message"]["tool_calls"].size(), 1U);
  const Json& call = choice["message"]["tool_calls"][0];
  EXPECT_EQ(call["type"], "function");
  EXPECT_EQ(call["function"], Json({{"name", "weather"}, {"arguments", R"({"city": "Rome"})"}}));
  const std::string id = call["id"];
  EXPECT_EQ(id.size(), 29U);
  EXPECT_EQ(id.find_first_not_of("0123456789abcdef", 5), std::string::npos);
}

TEST_F(ChatMessageTest, ReasoningContentAndCallsInOneAnswer) {
  start();
  const std::string text =
      std::string("<think>\nA ") + kCall + ".\n</think>\n\nI look.\n" + kCall + "\n" + kCall;
  Json body = with_tools({{"logprobs", true}, {"top_logprobs", 1}});
  Json choice = answer(text, body);
  EXPECT_EQ(choice["message"]["reasoning_content"], std::string("A ") + kCall + ".");
  EXPECT_EQ(choice["message"]["content"], "I look.");
  EXPECT_EQ(choice["message"]["tool_calls"].size(), 2U);
  EXPECT_EQ(choice["logprobs"]["content"].size(), runner.script.size());

  body["parallel_tool_calls"] = false;
  EXPECT_EQ(answer(text, body)["message"]["tool_calls"].size(), 1U);
  body["separate_reasoning"] = false;
  choice = answer(text, body);
  EXPECT_TRUE(choice["message"]["reasoning_content"].is_null());
  EXPECT_EQ(choice["message"]["content"], std::string("<think>\nA ") + kCall + ".\n</think>\n\nI look.");
  body["include_reasoning"] = false;
  choice = answer(text, body);
  EXPECT_TRUE(choice["message"]["reasoning_content"].is_null());
  EXPECT_EQ(choice["message"]["content"], "I look.");
}

TEST_F(ChatMessageTest, WithoutToolsACallIsContent) {
  start();
  for (const Json& body : {request(), with_tools({{"tool_choice", "none"}})}) {
    const Json choice = answer(kCall, body);
    EXPECT_EQ(choice["message"]["content"], kCall);
    EXPECT_FALSE(choice["message"].contains("tool_calls"));
    EXPECT_EQ(choice["finish_reason"], "stop");
  }
}

// Whether the length or the model ends it: a call is told with all its arguments or not at all, but for what
// a stream has told before.
TEST_F(ChatMessageTest, ACallThatIsCutOffIsNotToldAsFinished) {
  const std::string xml_call =
      "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>";
  for (const bool xml : {false, true}) {
    if (xml) chat = text::ChatTemplate::from_source(kXmlTemplate, "", "");
    start();
    const std::string call = xml ? xml_call : kCall;
    Json body = with_tools();
    script(call, body);
    const std::vector<int32_t> tokens(runner.script.begin(), runner.script.end() - 1);
    size_t complete = 0;
    for (size_t size = 1; size <= tokens.size(); ++size) {
      for (const bool by_length : {true, false}) {
        runner.script.assign(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(size));
        runner.script.push_back(kEos);
        body["max_tokens"] = by_length ? static_cast<int64_t>(size) : 150;
        const char* reason = by_length ? "length" : "stop";
        const Json whole = ask(kChat, body)["choices"][0];
        Json logprobs;
        const Json streamed = together(ask_stream(kChat, body), 0, logprobs);
        EXPECT_EQ(streamed["finish_reason"], whole["finish_reason"]);
        if (whole["message"].contains("tool_calls")) {
          ++complete;
          EXPECT_EQ(whole["finish_reason"], "tool_calls");
          EXPECT_TRUE(Json::accept(
              whole["message"]["tool_calls"][0]["function"]["arguments"].get_ref<const std::string&>()));
        } else {
          EXPECT_EQ(whole["finish_reason"], reason);
          EXPECT_EQ(whole["message"]["content"],
                    bundled_tokenizer().decode(std::span(tokens).first(size), false));
        }
        if (streamed["message"].contains("tool_calls")) {
          EXPECT_NE(streamed["message"]["tool_calls"][0]["function"]["arguments"], "");
        }
      }
    }
    EXPECT_GT(complete, 0U);
    EXPECT_LT(complete, tokens.size());
    stop();
  }
}

TEST_F(ChatMessageTest, EveryCallHasAnIdOfItsOwn) {
  start();
  const Json body = with_tools({{"n", 2}});
  script(std::string(kCall) + "\n" + kCall, body);
  std::set<std::string> ids;
  for (int i = 0; i < 2; ++i) {
    const Json answer = ask(kChat, body);
    for (const Json& choice : answer["choices"]) {
      for (const Json& call : choice["message"]["tool_calls"]) ids.insert(call["id"]);
    }
  }
  EXPECT_EQ(ids.size(), 8U);
  Json logprobs;
  const std::vector<Json> messages = ask_stream(kChat, body);
  for (const int64_t index : {0, 1}) {
    EXPECT_EQ(together(messages, index, logprobs)["message"]["tool_calls"].size(), 2U);
  }
}

TEST_F(ChatMessageTest, ReasoningThatThePromptHasOpened) {
  chat = text::ChatTemplate::from_source("{{ messages[0].content }}<think>\n", "", "");
  start();
  const Json choice = answer("Well.\n</think>\n\nHello", request());
  EXPECT_EQ(choice["message"]["reasoning_content"], "Well.");
  EXPECT_EQ(choice["message"]["content"], "Hello");
  const Json cut = answer("Well, well", request());
  EXPECT_EQ(cut["message"]["reasoning_content"], "Well, well");
  EXPECT_EQ(cut["message"]["content"], "");
}

TEST_F(ChatMessageTest, ReasoningComesAtOnceWhenItIsNotStreamed) {
  start();
  Json body = request();
  body["stream_reasoning"] = false;
  answer("<think>\nOnce upon a time there was a king.\n</think>\n\nHello there", body);
  int pieces = 0;
  for (const Json& chunk : ask_stream(kChat, body)) {
    if (chunk["choices"][0]["delta"].contains("reasoning_content")) ++pieces;
  }
  EXPECT_EQ(pieces, 1);
}

TEST_F(ChatMessageTest, NoEffortMeansNoThinking) {
  chat = text::ChatTemplate::from_source("{{ enable_thinking }} {{ messages[0].content }}", "", "");
  runner.forced_token = kEos;
  start();
  const auto tokens = [&](const Json& more) {
    Json body = request();
    body.update(more);
    return ask(kChat, body)["usage"]["prompt_tokens"].get<size_t>();
  };
  const auto expected = [](const char* text) { return bundled_tokenizer().encode(text, false).size(); };
  EXPECT_EQ(tokens({{"reasoning_effort", "none"}}), expected("false Hello"));
  EXPECT_EQ(tokens({{"reasoning_effort", "high"}}), expected(" Hello"));
  EXPECT_EQ(tokens({{"reasoning_effort", "none"}, {"chat_template_kwargs", {{"enable_thinking", true}}}}),
            expected("true Hello"));
  EXPECT_EQ(tokens({{"enable_thinking", false}}), expected("false Hello"));
  EXPECT_EQ(tokens({{"enable_thinking", true}}), expected("true Hello"));
  EXPECT_EQ(tokens({{"enable_thinking", true}, {"chat_template_kwargs", {{"enable_thinking", false}}}}),
            expected("false Hello"));
  EXPECT_EQ(tokens({{"chat_template_kwargs", {{"enable_thinking", nullptr}}}}), expected(" Hello"));
}

TEST_F(ChatMessageTest, ThinkingIsOnOrOff) {
  start();
  for (const Json& value : {Json("false"), Json(0), Json("no"), Json(1), Json::array()}) {
    Json body = request();
    body["enable_thinking"] = value;
    EXPECT_EQ(error_of(kChat, body, 400).value("param", ""), "enable_thinking");
    body = request();
    body["chat_template_kwargs"] = {{"enable_thinking", value}};
    EXPECT_EQ(error_of(kChat, body, 400).value("param", ""), "chat_template_kwargs.enable_thinking");
  }
}

// Models forget the tag before a call.
TEST_F(ChatMessageTest, CallsAtTheEndOfOpenReasoningCount) {
  start();
  const std::string call = kCall;
  for (const auto& [text, calls] :
       std::vector<std::pair<std::string, size_t>>{{"<think>\nI look.\n" + call, 1},
                                                   {"<think>\nI look.\n" + call + "\n" + call + "\n", 2},
                                                   {"<think>" + call, 1},
                                                   {"<think>Not <tool_call> yet.\n" + call, 1},
                                                   {"<think>\n" + call + " or not", 0},
                                                   {"<think>\n" + call + " or " + call, 1},
                                                   {"<think>\n" + call.substr(0, call.size() - 15), 0},
                                                   {"<think>\nI look.", 0}}) {
    const Json choice = answer(text, with_tools());
    EXPECT_EQ(choice["message"].value("tool_calls", Json::array()).size(), calls) << text;
    EXPECT_EQ(choice["finish_reason"], calls > 0 ? "tool_calls" : "stop") << text;
    EXPECT_TRUE(choice["message"]["reasoning_content"].get<std::string>().find("</think>") ==
                std::string::npos);
  }
  EXPECT_FALSE(answer("<think>\nI look.\n" + call, request())["message"].contains("tool_calls"));
}

// A stop string is looked for in all of the text, reasoning and calls included.
TEST_F(ChatMessageTest, StopStringsActInReasoning) {
  start();
  Json body = request();
  body["stop"] = "halt";
  const Json choice = answer("<think>\nI halt here.\n</think>\n\nHello", body);
  EXPECT_EQ(choice["message"]["reasoning_content"], "I ");
  EXPECT_EQ(choice["message"]["content"], "");
  EXPECT_EQ(choice["finish_reason"], "stop");
}

TEST_F(ChatMessageTest, TheTemplateTellsTheFormOfCalls) {
  chat = text::ChatTemplate::from_source(kXmlTemplate, "", "");
  start();
  const Json choice = answer(
      "<tool_call>\n<function=weather>\n<parameter=city>\n5\n</parameter>\n<parameter=days>\n5\n</"
      "parameter>\n"
      "</function>\n</tool_call>",
      with_tools());
  EXPECT_EQ(choice["finish_reason"], "tool_calls");
  EXPECT_EQ(choice["message"]["tool_calls"][0]["function"]["arguments"], R"({"city": "5", "days": 5})");
}

TEST_F(ChatMessageTest, EarlierCallsComeBackToTheModel) {
  for (const bool xml : {false, true}) {
    if (xml) chat = text::ChatTemplate::from_source(kXmlTemplate, "", "");
    start();
    for (const Json& arguments :
         {Json(R"({"city": "Rome"})"), Json({{"city", "Rome"}}), Json(""), Json("{\"city")}) {
      Json body = with_tools({{"max_tokens", 100}});
      body["messages"].push_back(
          {{"role", "assistant"},
           {"content", nullptr},
           {"tool_calls", Json::array({{{"id", "call_1"},
                                        {"type", "function"},
                                        {"function", {{"name", "weather"}, {"arguments", arguments}}}}})}});
      body["messages"].push_back({{"role", "tool"}, {"tool_call_id", "call_1"}, {"content", "Sunny"}});
      EXPECT_EQ(answer("It is sunny.", body)["message"]["content"], "It is sunny.");
      body.erase("tools");
      EXPECT_EQ(answer("It is sunny.", body)["message"]["content"], "It is sunny.");
    }
    stop();
  }
}

// Both names of reasoning, refusals, and results without text.
TEST(ChatMessages, HistoriesOfOtherServers) {
  const auto read = [](const Json& message) {
    return read_messages(Json::array({{{"role", "user"}, {"content", "Hi"}}, message}))[1];
  };
  EXPECT_EQ(read({{"role", "assistant"}, {"content", "a"}, {"reasoning", "r"}})["reasoning_content"], "r");
  EXPECT_EQ(read({{"role", "assistant"}, {"content", "a"}, {"reasoning_content", "r"}})["reasoning_content"],
            "r");
  EXPECT_EQ(read({{"role", "assistant"},
                  {"content", "a"},
                  {"reasoning", "x"},
                  {"reasoning_content", "r"}})["reasoning_content"],
            "r");
  EXPECT_EQ(read({{"role", "tool"}, {"tool_call_id", "1"}, {"content", nullptr}})["content"], "");
  EXPECT_EQ(read({{"role", "assistant"},
                  {"content", Json::array({{{"type", "text"}, {"text", "a"}},
                                           {{"type", "refusal"}, {"refusal", "I will not."}}})}})["content"],
            "a\nI will not.");
  EXPECT_THROW(read({{"role", "tool"}, {"tool_call_id", "1"}}), BadRequest);
  EXPECT_THROW(read({{"role", "user"}, {"content", nullptr}}), BadRequest);
  EXPECT_THROW(
      read({{"role", "user"}, {"content", Json::array({{{"type", "refusal"}, {"refusal", "I will not."}}})}}),
      BadRequest);
}

TEST_F(ChatMessageTest, TokenizeRendersAsChatDoes) {
  for (const bool xml : {false, true}) {
    if (xml) chat = text::ChatTemplate::from_source(kXmlTemplate, "", "");
    runner.forced_token = kEos;
    start();
    for (const char* arguments : {R"({"city": "Rome", "days": 2})", "", "{\"city"}) {
      Json body = with_tools({{"max_tokens", 1}});
      body["messages"].push_back(
          {{"role", "assistant"},
           {"content", nullptr},
           {"tool_calls", Json::array({{{"id", "call_1"},
                                        {"type", "function"},
                                        {"function", {{"name", "weather"}, {"arguments", arguments}}}}})}});
      body["messages"].push_back({{"role", "tool"}, {"tool_call_id", "call_1"}, {"content", nullptr}});
      const Json counted = ask("/tokenize", {{"messages", body["messages"]}, {"tools", body["tools"]}});
      EXPECT_EQ(counted["count"], ask(kChat, body)["usage"]["prompt_tokens"]);
      body.erase("tools");
      const Json without = ask("/tokenize", {{"messages", body["messages"]}});
      EXPECT_EQ(without["count"], ask(kChat, body)["usage"]["prompt_tokens"]);
    }
    stop();
  }
}

TEST(ChatMessages, ArgumentsBecomeObjects) {
  const auto parsed = [](const Json& arguments) {
    Json messages = read_messages(Json::array(
        {{{"role", "user"}, {"content", "Hi"}},
         {{"role", "assistant"},
          {"content", nullptr},
          {"tool_calls", Json::array({{{"type", "function"},
                                       {"function", {{"name", "f"}, {"arguments", arguments}}}}})}}}));
    EXPECT_TRUE(has_tool_calls(messages));
    parse_tool_arguments(messages);
    return to_text(messages[1]["tool_calls"][0]["function"]["arguments"]);
  };
  EXPECT_EQ(parsed(R"( {"b": 1, "a": [true]} )"), R"({"b":1,"a":[true]})");
  EXPECT_EQ(parsed({{"a", 1}}), R"({"a":1})");
  EXPECT_EQ(parsed(""), "{}");
  EXPECT_EQ(parsed("[1]"), R"({"arguments":"[1]"})");
  EXPECT_EQ(parsed("{\"a"), R"({"arguments":"{\"a"})");
}

}  // namespace
}  // namespace chorale::server
