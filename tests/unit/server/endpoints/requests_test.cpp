// Which requests are accepted and which are refused, and what the refusal says: one table per endpoint.
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "unit/server/server_fixture.h"

namespace chorale::server {
namespace {

struct Case {
  const char* field;  // JSON text of the members to add
  const char* param;  // the refusal's param; nullptr: accepted
};

class RequestsTest : public ServerTest {
 protected:
  void check(const char* path, const std::string& base, const std::vector<Case>& cases) {
    for (const Case& c : cases) {
      const Json body =
          Json::parse("{" + base + (base.empty() || *c.field == '\0' ? "" : ",") + c.field + "}");
      const RawResponse response = post(path, body);
      if (c.param == nullptr) {
        EXPECT_EQ(response.status, 200) << c.field << " gave " << response.body;
        continue;
      }
      EXPECT_EQ(response.status, 400) << c.field << " gave " << response.body;
      const Json error = Json::parse(response.body).value("error", Json::object());
      EXPECT_EQ(error.value("param", Json()), c.param) << c.field << ": " << response.body;
      EXPECT_EQ(error.value("type", ""), "invalid_request_error");
      EXPECT_EQ(error.value("code", 0), 400);
    }
  }
};

const std::vector<Case> kSamplingCases = {
    {R"("temperature":0)", nullptr},
    {R"("temperature":1.5,"top_p":0.5,"top_k":5,"min_p":0.1)", nullptr},
    {R"("top_k":-1,"repetition_penalty":1.2,"presence_penalty":-2,"frequency_penalty":2)", nullptr},
    {R"("seed":-5)", nullptr},
    {R"("seed":9223372036854775807)", nullptr},
    {R"("stop":"x")", nullptr},
    {R"("stop":["x","y"],"stop_token_ids":[1,2])", nullptr},
    {R"("stop":[],"temperature":null)", nullptr},
    {R"("logit_bias":{"5":10,"6":-100})", nullptr},
    {R"("ignore_eos":true,"skip_special_tokens":false)", nullptr},
    {R"("temperature":-0.1)", "temperature"},
    {R"("temperature":"hot")", "temperature"},
    {R"("top_p":0)", "top_p"},
    {R"("top_p":1.1)", "top_p"},
    {R"("top_k":-2)", "top_k"},
    {R"("top_k":1.5)", "top_k"},
    {R"("min_p":2)", "min_p"},
    {R"("repetition_penalty":0)", "repetition_penalty"},
    {R"("presence_penalty":2.5)", "presence_penalty"},
    {R"("frequency_penalty":-3)", "frequency_penalty"},
    {R"("seed":1.5)", "seed"},
    {R"("seed":"1")", "seed"},
    {R"("stop":5)", "stop"},
    {R"("stop":[""])", "stop"},
    {R"("stop":[1])", "stop"},
    {R"("stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"])", "stop"},
    {R"("stop_token_ids":[-1])", "stop_token_ids[0]"},
    {R"("stop_token_ids":[1,100000])", "stop_token_ids[1]"},
    {R"("logit_bias":{"x":1})", "logit_bias"},
    {R"("logit_bias":{"100000":1})", "logit_bias"},
    {R"("logit_bias":{"1":101})", "logit_bias"},
    {R"("logit_bias":[1])", "logit_bias"},
    {R"("ignore_eos":1)", "ignore_eos"},
    {R"("regex":"a+")", "regex"},
    {R"("json_schema":"{}")", "json_schema"},
};

const std::vector<Case> kOpenAiCases = {
    {R"("model":"tales","user":"me","metadata":{"a":"b"},"store":false,"service_tier":"auto")", nullptr},
    {R"("n":2,"max_tokens":2,"min_tokens":1)", nullptr},
    {R"("stream":true,"stream_options":{"include_usage":true})", nullptr},
    {R"("response_format":{"type":"text"})", nullptr},
    {R"("n":0)", "n"},
    {R"("n":257)", "n"},
    {R"("max_tokens":-1)", "max_tokens"},
    {R"("max_tokens":512)", "max_tokens"},
    {R"("max_tokens":2,"min_tokens":3)", "min_tokens"},
    {R"("stream":1)", "stream"},
    {R"("stream_options":{"include_usage":true})", "stream_options"},
    {R"("stream":true,"stream_options":{"what":1})", nullptr},
    {R"("response_format":{"type":"json_object"})", "response_format"},
    {R"("guided_json":{})", "guided_json"},
    {R"("a_field_that_nobody_knows":{"a":[1]})", nullptr},
};

TEST_F(RequestsTest, Chat) {
  runner.forced_token = kEos;
  start();
  const std::string hello = R"("messages":[{"role":"user","content":"Hello"}])";
  const char* path = "/v1/chat/completions";
  check(path, hello, kSamplingCases);
  check(path, hello, kOpenAiCases);
  check(
      path, hello,
      {{"", nullptr},
       {R"("max_completion_tokens":3,"max_tokens":100000)", nullptr},
       {R"("logprobs":true,"top_logprobs":20)", nullptr},
       {R"("tools":[],"tool_choice":"none","modalities":["text"],"parallel_tool_calls":true)", nullptr},
       {R"("chat_template_kwargs":{"enable_thinking":false})", nullptr},
       {R"("max_completion_tokens":0)", "max_completion_tokens"},
       {R"("logprobs":1)", "logprobs"},
       {R"("top_logprobs":2)", "top_logprobs"},
       {R"("logprobs":true,"top_logprobs":21)", "top_logprobs"},
       {R"("functions":[{"name":"f"}])", "functions"},
       {R"("audio":{"voice":"x"})", "audio"},
       {R"("modalities":["text","audio"])", "modalities"},
       {R"("reasoning_effort":"low","separate_reasoning":false,"include_reasoning":true,"stream_reasoning":false)",
        nullptr},
       {R"("reasoning_effort":"none","chat_template_kwargs":{"enable_thinking":true})", nullptr},
       {R"("reasoning_effort":1)", "reasoning_effort"},
       {R"("separate_reasoning":"no")", "separate_reasoning"},
       {R"("include_reasoning":0)", "include_reasoning"},
       {R"("stream_reasoning":1)", "stream_reasoning"},
       {R"("web_search_options":{})", "web_search_options"},
       {R"("chat_template_kwargs":{"messages":[]})", "chat_template_kwargs.messages"},
       {R"("chat_template_kwargs":1)", "chat_template_kwargs"}});
}

TEST_F(RequestsTest, ChatTools) {
  runner.forced_token = kEos;
  start();
  const char* path = "/v1/chat/completions";
  const std::string hello = R"("messages":[{"role":"user","content":"Hello"}])";
  check(
      path, hello,
      {{R"("tool_choice":"auto")", nullptr},
       {R"("tools":[],"tool_choice":"none")", nullptr},
       {R"("tool_choice":"required")", "tool_choice"},
       {R"("tools":[],"tool_choice":{"type":"function","function":{"name":"f"}})", "tool_choice"},
       {R"("tools":{})", "tools"},
       {R"("tools":["f"])", "tools[0]"},
       {R"("tools":[{"function":{"name":"f"}}])", "tools[0].type"},
       {R"("tools":[{"type":"custom","custom":{"name":"f"}}])", "tools[0].type"},
       {R"("tools":[{"type":"function"}])", "tools[0].function"},
       {R"("tools":[{"type":"function","function":{}}])", "tools[0].function.name"},
       {R"("tools":[{"type":"function","function":{"name":""}}])", "tools[0].function.name"},
       {R"("tools":[{"type":"function","function":{"name":"a b"}}])", "tools[0].function.name"},
       {R"("tools":[{"type":"function","function":{"name":5}}])", "tools[0].function.name"},
       {R"("tools":[{"type":"function","function":{"name":"f","description":5}}])",
        "tools[0].function.description"},
       {R"("tools":[{"type":"function","function":{"name":"f","strict":5}}])", "tools[0].function.strict"},
       {R"("tools":[{"type":"function","function":{"name":"f","parameters":[]}}])",
        "tools[0].function.parameters"},
       {R"("tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"f"}}])",
        "tools[1].function.name"}});
  const std::string tools = hello + R"(,"tools":[{"type":"function","function":{"name":"f.g-h_1",
      "description":"It.","strict":true,"parameters":{"type":"object","properties":{}},"more":1}}])";
  check(path, tools,
        {{"", nullptr},
         {R"("tool_choice":"auto","parallel_tool_calls":false)", nullptr},
         {R"("tool_choice":"none")", nullptr},
         {R"("parallel_tool_calls":1)", "parallel_tool_calls"},
         {R"("tool_choice":"any")", "tool_choice"},
         {R"("tool_choice":5)", "tool_choice"},
         {R"("tool_choice":"required")", "tool_choice"},
         {R"("tool_choice":{"type":"function","function":{"name":"f.g-h_1"}})", "tool_choice"},
         {R"("tool_choice":{"type":"function","function":{"name":"other"}})", "tool_choice.function.name"},
         {R"("tool_choice":{"type":"function"})", "tool_choice.function"},
         {R"("tool_choice":{"type":"custom","custom":{"name":"f"}})", "tool_choice.type"}});
  Json body = {{"messages", Json::array({{{"role", "user"}, {"content", "Hi"}}})}, {"tools", Json::array()}};
  for (int i = 0; i < 129; ++i) {
    body["tools"].push_back({{"type", "function"}, {"function", {{"name", fmt::format("f{}", i)}}}});
  }
  EXPECT_EQ(error_of(path, body, 400).value("param", ""), "tools");
}

TEST_F(RequestsTest, ToolsNeedATemplateThatShowsThem) {
  chat = text::ChatTemplate::from_source("{{ messages[0].content }}", "", "");
  runner.forced_token = kEos;
  start();
  check("/v1/chat/completions", R"("messages":[{"role":"user","content":"Hello"}])",
        {{R"("tools":[{"type":"function","function":{"name":"f"}}])", "tools"},
         {R"("tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"none")", nullptr}});
}

TEST_F(RequestsTest, ChatMessages) {
  runner.forced_token = kEos;
  start();
  check(
      "/v1/chat/completions", "",
      {{R"("messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi"}])", nullptr},
       {R"("messages":[{"role":"developer","content":"Be brief."},{"role":"user","content":"Hi"}])", nullptr},
       {R"("messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}])",
        nullptr},
       {R"("messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":null,"tool_calls":
             [{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},
             {"role":"tool","tool_call_id":"1","content":"result"}])",
        nullptr},
       {R"("messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"x","refusal":null,
             "annotations":[],"function_call":null},{"role":"user","content":"more","name":"me"}])",
        nullptr},
       {R"("n":1)", "messages"},
       {R"("messages":[])", "messages"},
       {R"("messages":"Hi")", "messages"},
       {R"("messages":["Hi"])", "messages[0]"},
       {R"("messages":[{"content":"Hi"}])", "messages[0].role"},
       {R"("messages":[{"role":"robot","content":"Hi"}])", "messages[0].role"},
       {R"("messages":[{"role":"user"}])", "messages[0].content"},
       {R"("messages":[{"role":"user","content":5}])", "messages[0].content"},
       {R"("messages":[{"role":"user","content":"a"},{"role":"user","content":[{"type":"image_url",
             "image_url":{"url":"x"}}]}])",
        "messages[1].content[0].type"},
       {R"("messages":[{"role":"user","content":[{"type":"text"}]}])", "messages[0].content[0].text"},
       {R"("messages":[{"role":"user","content":"a","mood":"good"}])", nullptr},
       {R"("messages":[{"role":"assistant","tool_calls":[{"function":{"arguments":""}}]}])",
        "messages[0].tool_calls[0].function.name"}});
}

TEST_F(RequestsTest, Completions) {
  runner.forced_token = kEos;
  start();
  const std::string once = R"("prompt":"Once upon")";
  const char* path = "/v1/completions";
  check(path, once, kSamplingCases);
  check(path, once, kOpenAiCases);
  check(path, once,
        {{R"("echo":true,"logprobs":5,"max_tokens":0)", nullptr},
         {R"("best_of":2,"n":2)", nullptr},
         {R"("suffix":"")", nullptr},
         {R"("suffix":"the end")", "suffix"},
         {R"("best_of":2)", "best_of"},
         {R"("logprobs":-1)", "logprobs"},
         {R"("logprobs":true)", "logprobs"},
         {R"("echo":"yes")", "echo"}});
  check(path, "",
        {{R"("prompt":[1,2,3])", nullptr},
         {R"("prompt":["a","b"])", nullptr},
         {R"("prompt":[[1,2],[3]])", nullptr},
         {R"("n":1)", "prompt"},
         {R"("prompt":[])", "prompt"},
         {R"("prompt":"")", "prompt"},
         {R"("prompt":5)", "prompt"},
         {R"("prompt":[1,"a"])", "prompt[1]"},
         {R"("prompt":["a",5])", "prompt[1]"},
         {R"("prompt":[[1,2],[]])", "prompt[1]"},
         {R"("prompt":[1,4096])", "prompt[1]"},
         {R"("prompt":[[1,-2]])", "prompt[0][1]"},
         {R"("prompt":["a","b","c"],"n":100)", "n"}});
}

TEST_F(RequestsTest, Generate) {
  runner.forced_token = kEos;
  start();
  check("/generate", "",
        {{R"("text":"Once")", nullptr},
         {R"("input_ids":[1,2])", nullptr},
         {R"("text":["a","b"],"sampling_params":{"max_new_tokens":2})", nullptr},
         {R"("input_ids":[[1],[2]],"sampling_params":[{"n":2},{}],"rid":["x","y"])", nullptr},
         {R"("text":"Once","return_logprob":true,"top_logprobs_num":2,"logprob_start_len":0)", nullptr},
         {R"("n":1)", "text"},
         {R"("text":"a","input_ids":[1])", "text"},
         {R"("text":[1,2])", "text"},
         {R"("input_ids":"a")", "input_ids"},
         {R"("input_ids":[1.5])", "input_ids[0]"},
         {R"("text":"a","sampling_params":5)", "sampling_params"},
         {R"("text":"a","sampling_params":[{},{}])", "sampling_params"},
         {R"("text":"a","sampling_params":{"what":1})", nullptr},
         {R"("text":"a","sampling_params":{"max_new_tokens":-1})", "sampling_params.max_new_tokens"},
         {R"("text":"a","sampling_params":{"temperature":-1})", "sampling_params.temperature"},
         {R"("text":"a","logprob_start_len":50,"return_logprob":true)", "logprob_start_len"},
         {R"("text":"a","return_logprob":false,"top_logprobs_num":0,"logprob_start_len":-1)", nullptr},
         {R"("text":"a","top_logprobs_num":2)", "top_logprobs_num"},
         {R"("text":"a","return_logprob":false,"logprob_start_len":0)", "logprob_start_len"},
         {R"("text":"a","image_data":"x")", "image_data"},
         {R"("text":"a","rid":["1","2"])", "rid"},
         {R"("text":"a","temperature":0)", nullptr}});
}

TEST_F(RequestsTest, TellsBothCountsOfAPromptThatIsTooLong) {
  start();
  const std::vector<int32_t> ids(600, 5);
  for (const auto& [path, body] : std::vector<std::pair<const char*, Json>>{
           {"/v1/completions", {{"prompt", ids}}}, {"/generate", {{"input_ids", ids}}}}) {
    const Json error = error_of(path, body, 400);
    EXPECT_NE(error.value("message", "").find("600"), std::string::npos) << error;
    EXPECT_NE(error.value("message", "").find("512"), std::string::npos) << error;
  }
}

TEST_F(RequestsTest, NamesTheServedModel) {
  start();
  const Json error = error_of("/v1/completions", {{"prompt", "a"}, {"model", "other"}}, 404);
  EXPECT_EQ(error.value("param", ""), "model");
  EXPECT_NE(error.value("message", "").find("'tales'"), std::string::npos);
}

TEST_F(RequestsTest, ABrokenOrMissingChatTemplateLeavesCompletions) {
  chat = text::ChatTemplate::from_source("{% for %}", "", "");
  runner.forced_token = kEos;
  start();
  const Json hello = {{"messages", Json::array({{{"role", "user"}, {"content", "Hi"}}})}};
  EXPECT_NE(error_of("/v1/chat/completions", hello, 400).value("message", "").find("template"),
            std::string::npos);
  ask("/v1/completions", {{"prompt", "Once"}});
  stop();
  chat.reset();
  start();
  EXPECT_NE(error_of("/v1/chat/completions", hello, 400).value("message", "").find("template"),
            std::string::npos);
}

TEST_F(RequestsTest, PathsMethodsAndTypes) {
  start();
  const auto status = [this](const std::string& request) {
    RawClient client(port);
    client.send(request);
    return client.read_response();
  };
  EXPECT_EQ(status("GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n").status, 404);
  const RawResponse wrong = status("GET /generate HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.headers.at("Allow"), "POST, OPTIONS");
  EXPECT_EQ(status("POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").status, 405);
  EXPECT_EQ(status("OPTIONS /generate HTTP/1.1\r\nHost: x\r\n\r\n").status, 204);
  EXPECT_EQ(
      status("POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}")
          .status,
      415);
  EXPECT_EQ(status("POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}").status, 400);
  EXPECT_EQ(status("POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{").status, 400);
  EXPECT_EQ(get("/health").status, 200);
  EXPECT_EQ(Json::parse(get("/v1/models").body)["data"][0]["id"], "tales");
  EXPECT_EQ(Json::parse(get("/v1/models/tales").body)["id"], "tales");
  EXPECT_EQ(get("/v1/models/other").status, 404);
}

// Clients write the slash of a name as it is or escaped.
TEST_F(RequestsTest, AModelsNameMayHaveSlashesAndSpaces) {
  options.served_model_name = "tales/the 1st";
  start();
  for (const char* path :
       {"/v1/models/tales/the%201st", "/v1/models/tales%2Fthe%201st", "/v1/models/tales%2fthe%201%73t"}) {
    const RawResponse response = get(path);
    EXPECT_EQ(response.status, 200) << path;
    EXPECT_EQ(Json::parse(response.body).value("id", ""), "tales/the 1st") << path;
  }
  for (const char* path :
       {"/v1/models/", "/v1/models/tales", "/v1/models/%", "/v1/models/tales%2", "/v1/models/%zz"}) {
    EXPECT_EQ(get(path).status, 404) << path;
  }
}

}  // namespace
}  // namespace chorale::server
