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
      const bool is_too_long = error.value("message", "").find("maximum context length") != std::string::npos;
      EXPECT_EQ(error.value("code", Json()), is_too_long ? Json("context_length_exceeded") : Json(400))
          << c.field;
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
    {R"("seed":-1)", nullptr},
    {R"("bad_words":["dragon","the end"],"allowed_token_ids":[5,6,4066],"thinking_token_budget":10)",
     nullptr},
    {R"("bad_words":[],"thinking_token_budget":-1)", nullptr},
    {R"("bad_words":"dragon")", "bad_words"},
    {R"("bad_words":["a",""])", "bad_words"},
    {R"("bad_words":[" "])", "bad_words"},
    {R"("bad_words":[5])", "bad_words"},
    {R"("allowed_token_ids":[])", "allowed_token_ids"},
    {R"("allowed_token_ids":5)", "allowed_token_ids"},
    {R"("allowed_token_ids":[100000])", "allowed_token_ids[0]"},
    {R"("thinking_token_budget":-2)", "thinking_token_budget"},
    {R"("thinking_token_budget":"much")", "thinking_token_budget"},
    // Of other servers: what would change the answer is refused, and what would not is taken.
    {R"("typical_p":1,"tfs_z":1.0,"mirostat":0,"dry_multiplier":0.0,"xtc_probability":0,"top_n_sigma":-1)",
     nullptr},
    {R"("repeat_penalty":1.0,"repeat_last_n":64,"no_repeat_ngram_size":0,"n_predict":-1)", nullptr},
    {R"("typical_p":0.9)", "typical_p"},
    {R"("mirostat":2)", "mirostat"},
    {R"("dry_multiplier":0.8)", "dry_multiplier"},
    {R"("xtc_probability":0.5)", "xtc_probability"},
    {R"("repeat_penalty":1.1)", "repeat_penalty"},
    {R"("no_repeat_ngram_size":3)", "no_repeat_ngram_size"},
    {R"("n_predict":5)", "n_predict"},
    {R"("guidance_scale":2)", "guidance_scale"},
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
    {R"("stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true})", nullptr},
    {R"("stream":true,"stream_options":{"continuous_usage_stats":1})",
     "stream_options.continuous_usage_stats"},
    {R"("return_token_ids":true)", nullptr},
    {R"("return_token_ids":1)", "return_token_ids"},
    {R"("return_tokens_as_token_ids":true)", "return_tokens_as_token_ids"},
    {R"("logprob_token_ids":[1])", "logprob_token_ids"},
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
       {R"("verbosity":"high","prediction":{"type":"content","content":"x"})", nullptr},
       {R"("continue_final_message":true)", "continue_final_message"},
       {R"("continue_final_message":1)", "continue_final_message"},
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
  check(
      path, tools,
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
       {R"("tool_choice":{"type":"custom","custom":{"name":"f"}})", "tool_choice.type"},
       {R"("tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":
              [{"type":"function","function":{"name":"f.g-h_1"}}]}})",
        nullptr},
       {R"("tool_choice":{"type":"allowed_tools","mode":"auto","tools":[{"type":"function","name":"f.g-h_1"}]})",
        nullptr},
       {R"("tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"any","tools":
              [{"type":"function","function":{"name":"f.g-h_1"}}]}})",
        "tool_choice.allowed_tools.mode"},
       {R"("tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":[]}})",
        "tool_choice.allowed_tools.tools"},
       {R"("tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"auto","tools":
              [{"type":"function","function":{"name":"other"}}]}})",
        "tool_choice.allowed_tools.tools[0]"}});
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

// By code and words, in every way to be too long, and nowhere else.
TEST_F(RequestsTest, WhatIsTooLongIsToldAsClientsLookForIt) {
  runner.forced_token = kEos;
  start();
  const std::vector<int32_t> full(512, 5);
  const std::vector<int32_t> ids(500, 5);
  std::string words;
  for (int i = 0; i < 600; ++i) words += " dragon";
  const Json hello = Json::array({{{"role", "user"}, {"content", "Hi"}}});
  const std::vector<std::pair<const char*, Json>> too_long = {
      {"/v1/completions", {{"prompt", full}}},
      {"/v1/completions", {{"prompt", words}}},
      {"/v1/completions", {{"prompt", Json::array({"short", words})}}},
      {"/v1/completions", {{"prompt", ids}, {"max_tokens", 13}}},
      {"/v1/completions", {{"prompt", ids}, {"max_tokens", 4'000'000'000}}},
      {"/v1/completions", {{"prompt", ids}, {"min_tokens", 13}}},
      {"/generate", {{"input_ids", full}}},
      {"/generate", {{"input_ids", ids}, {"sampling_params", {{"max_new_tokens", 13}}}}},
      {"/generate", {{"input_ids", ids}, {"sampling_params", {{"min_new_tokens", 13}}}}},
      {"/v1/chat/completions", {{"messages", Json::array({{{"role", "user"}, {"content", words}}})}}},
      {"/v1/chat/completions", {{"messages", hello}, {"max_tokens", 512}}},
      {"/v1/chat/completions", {{"messages", hello}, {"max_completion_tokens", 100'000}, {"stream", true}}}};
  for (const auto& [path, body] : too_long) {
    const Json error = error_of(path, body, 400);
    EXPECT_EQ(error.value("code", Json()), "context_length_exceeded") << error;
    EXPECT_NE(error.value("message", "").find("maximum context length is 512 tokens"), std::string::npos)
        << error;
  }
  const std::vector<std::pair<const char*, Json>> otherwise_wrong = {
      {"/v1/completions", {{"prompt", ids}, {"max_tokens", -1}}},
      {"/v1/completions", {{"prompt", ids}, {"max_tokens", 2}, {"min_tokens", 3}}},
      {"/v1/completions", {{"prompt", ""}}},
      {"/v1/chat/completions", {{"messages", hello}, {"max_tokens", 0}}},
      {"/v1/chat/completions", {{"messages", hello}, {"n", 1000}}}};
  for (const auto& [path, body] : otherwise_wrong) {
    const Json error = error_of(path, body, 400);
    EXPECT_EQ(error.value("code", Json()), 400) << error;
    EXPECT_EQ(error.value("message", "").find("context length"), std::string::npos) << error;
  }
  EXPECT_EQ(post("/v1/completions", {{"prompt", ids}, {"max_tokens", 12}}).status, 200);
}

TEST_F(RequestsTest, MaxTokensIsClippedWhereTheServerSaysSo) {
  options.clip_max_tokens = true;
  start();
  const std::vector<int32_t> ids(500, 5);
  const Json body = {{"prompt", ids}, {"max_tokens", 100'000}, {"ignore_eos", true}};
  EXPECT_EQ(ask("/v1/completions", body)["usage"]["completion_tokens"], 12);
  EXPECT_EQ(ask("/v1/completions", body)["choices"][0]["finish_reason"], "length");
  const Json native = {{"input_ids", ids},
                       {"sampling_params", {{"max_new_tokens", 13}, {"ignore_eos", true}}}};
  EXPECT_EQ(ask("/generate", native)["meta_info"]["completion_tokens"], 12);
  const Json full = {{"prompt", std::vector<int32_t>(512, 5)}, {"max_tokens", 1}};
  EXPECT_EQ(error_of("/v1/completions", full, 400).value("code", Json()), "context_length_exceeded");
}

TEST_F(RequestsTest, SeveralNamesAreServed) {
  options.other_model_names = {"qwen", "org/name"};
  start();
  for (const char* name : {"tales", "qwen", "org/name"}) {
    EXPECT_EQ(ask("/v1/completions", {{"prompt", "a"}, {"model", name}, {"max_tokens", 1}})["model"],
              "tales");
    EXPECT_EQ(Json::parse(get(fmt::format("/v1/models/{}", name)).body)["id"], name);
  }
  const Json list = Json::parse(get("/v1/models").body)["data"];
  EXPECT_EQ(list.size(), 3U);
  EXPECT_EQ(list[2]["id"], "org/name");
  error_of("/v1/completions", {{"prompt", "a"}, {"model", "other"}}, 404);
}

TEST_F(RequestsTest, PathsThatAreNearlyRightAreHinted) {
  start();
  const auto hint = [this](const char* path) {
    const RawResponse response = get(path);
    EXPECT_EQ(response.status, 404) << path;
    return Json::parse(response.body)["error"]["message"].get<std::string>();
  };
  for (const auto& [path, meant] :
       std::vector<std::pair<const char*, const char*>>{{"/chat/completions", "/v1/chat/completions"},
                                                        {"/completions", "/v1/completions"},
                                                        {"/models", "/v1/models"},
                                                        {"/v1/v1/chat/completions", "/v1/chat/completions"},
                                                        {"/v1//chat/completions", "/v1/chat/completions"},
                                                        {"//v1/chat/completions", "/v1/chat/completions"},
                                                        {"/api/v1/chat/completions", "/v1/chat/completions"},
                                                        {"/openai/v1/completions", "/v1/completions"},
                                                        {"/V1/Chat/Completions", "/v1/chat/completions"},
                                                        {"/v1/generate", "/generate"},
                                                        {"/v1/tokenize", "/tokenize"},
                                                        {"/v1/health", "/health"},
                                                        {"/completion", "/v1/completions"},
                                                        {"/api/chat", "/v1/chat/completions"},
                                                        {"/messages", "/v1/messages"},
                                                        {"/responses", "/v1/responses"}}) {
    EXPECT_NE(hint(path).find(fmt::format("did you mean {}?", meant)), std::string::npos) << hint(path);
  }
  for (const char* path : {"/nowhere", "/v1", "/v1/embeddings", "/favicon.ico"}) {
    EXPECT_EQ(hint(path).find("did you mean"), std::string::npos) << hint(path);
  }
}

TEST_F(RequestsTest, ASlashAtTheEndChangesNothing) {
  start();
  EXPECT_EQ(get("/health/").status, 200);
  EXPECT_EQ(post("/v1/completions/", {{"prompt", "a"}, {"max_tokens", 1}}).status, 200);
  EXPECT_EQ(get("/nowhere/").status, 404);
}

TEST_F(RequestsTest, RoutersAndTokenizersOfOtherServersFindWhatTheyAskFor) {
  start();
  const Json load = Json::parse(get("/get_load").body);
  ASSERT_EQ(load.size(), 1U);
  EXPECT_EQ(load[0], Json({{"dp_rank", 0}, {"num_reqs", 0}, {"num_waiting_reqs", 0}, {"num_tokens", 0}}));
  const Json info = Json::parse(get("/tokenizer_info").body);
  for (const char* name : {"eos_token", "bos_token", "pad_token", "chat_template", "tokenizer_class"}) {
    EXPECT_TRUE(info.contains(name)) << name;
  }
  EXPECT_EQ(Json::parse(get("/get_model_info").body)["tokenizer_path"], nullptr);
  EXPECT_EQ(get("/").headers.at("X-Content-Type-Options"), "nosniff");
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
  EXPECT_EQ(get("/ping").body, get("/health").body);
  EXPECT_EQ(status("POST /ping HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").status, 200);
  EXPECT_EQ(Json::parse(get("/version").body),
            Json({{"version", Json::parse(get("/server_info").body)["version"]}}));
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
