// The whole server over a fake model: answers, streams, clients that go away, draining, many at once.
#include "server/server.h"

#include <atomic>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "unit/server/server_fixture.h"

namespace chorale::server {
namespace {

const char* const kChat = "/v1/chat/completions";
const char* const kCompletions = "/v1/completions";
const char* const kGenerate = "/generate";

Json hello() {
  return {{"messages", Json::array({{{"role", "user"}, {"content", "Hello"}}})}};
}

Json merge(Json body, const Json& more) {
  body.update(more);
  return body;
}

TEST_F(ServerTest, AnswersAChat) {
  start();
  const Json answer = ask(kChat, merge(hello(), {{"max_tokens", 5}, {"ignore_eos", true}}));
  EXPECT_EQ(answer["object"], "chat.completion");
  EXPECT_EQ(answer["model"], "tales");
  EXPECT_TRUE(answer["id"].get<std::string>().starts_with("chatcmpl-"));
  ASSERT_EQ(answer["choices"].size(), 1U);
  const Json& choice = answer["choices"][0];
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_EQ(choice["finish_reason"], "length");
  EXPECT_TRUE(choice["logprobs"].is_null());
  EXPECT_EQ(answer["usage"]["completion_tokens"], 5);
  EXPECT_EQ(answer["usage"]["total_tokens"], answer["usage"]["prompt_tokens"].get<int>() + 5);
  EXPECT_EQ(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
}

TEST_F(ServerTest, ChatGoesOnToTheEndOfTheContextAndCompletionsFor16Tokens) {
  start();
  const Json chat_answer = ask(kChat, merge(hello(), {{"ignore_eos", true}}));
  EXPECT_EQ(chat_answer["usage"]["total_tokens"], kContext);
  EXPECT_EQ(chat_answer["choices"][0]["finish_reason"], "length");
  const Json completion = ask(kCompletions, {{"prompt", "Once"}, {"ignore_eos", true}});
  EXPECT_EQ(completion["usage"]["completion_tokens"], 16);
  const Json native = ask(kGenerate, {{"text", "Once"}, {"sampling_params", {{"ignore_eos", true}}}});
  EXPECT_EQ(native["meta_info"]["completion_tokens"], 128);
}

TEST_F(ServerTest, TheStopTokenIsCountedAndNotTold) {
  runner.forced_token = kEos;
  start();
  const Json answer = ask(kChat, merge(hello(), {{"temperature", 0}}));
  EXPECT_EQ(answer["choices"][0]["message"]["content"], "");
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(answer["usage"]["completion_tokens"], 1);
  const Json native = ask(kGenerate, {{"text", "Once"}, {"sampling_params", {{"temperature", 0}}}});
  EXPECT_EQ(native["output_ids"], Json::array({kEos}));
  EXPECT_EQ(native["meta_info"]["finish_reason"], Json({{"type", "stop"}, {"matched", kEos}}));
}

TEST_F(ServerTest, StreamsChatInTheShapeOfOpenAi) {
  start();
  const Json body = merge(hello(), {{"max_tokens", 40}, {"ignore_eos", true}, {"n", 3}, {"seed", 5}});
  const std::vector<Json> messages =
      ask_stream(kChat, merge(body, {{"stream_options", {{"include_usage", true}}}}));
  std::map<int, std::string> texts;
  std::map<int, int> roles;
  std::map<int, int> finishes;
  for (size_t i = 0; i + 1 < messages.size(); ++i) {
    const Json& message = messages[i];
    EXPECT_EQ(message["object"], "chat.completion.chunk");
    EXPECT_EQ(message["id"], messages[0]["id"]);
    EXPECT_TRUE(message["usage"].is_null());
    ASSERT_EQ(message["choices"].size(), 1U);
    const Json& choice = message["choices"][0];
    const int index = choice["index"];
    EXPECT_EQ(finishes[index], 0) << "nothing comes after the finish reason";
    if (choice["delta"].contains("role")) ++roles[index];
    EXPECT_EQ(roles[index], 1) << "the role comes first, once";
    texts[index] += choice["delta"].value("content", "");
    if (!choice["finish_reason"].is_null()) {
      ++finishes[index];
      EXPECT_EQ(choice["finish_reason"], "length");
      EXPECT_EQ(choice["delta"], Json::object());
    }
  }
  EXPECT_EQ(messages.back()["choices"], Json::array());
  EXPECT_EQ(messages.back()["usage"]["completion_tokens"], 120);
  const Json whole = ask(kChat, body);
  EXPECT_EQ(whole["usage"]["prompt_tokens"], messages.back()["usage"]["prompt_tokens"]);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(finishes[i], 1);
    EXPECT_EQ(whole["choices"][static_cast<size_t>(i)]["message"]["content"], texts[i]);
  }
  EXPECT_NE(texts[0], texts[1]);
  EXPECT_NE(texts[1], texts[2]);
}

TEST_F(ServerTest, ASeedRepeatsAndItsAbsenceDoesNot) {
  start();
  const auto text = [this](const Json& more) {
    return ask(kCompletions, merge({{"prompt", "Once"}, {"max_tokens", 24}}, more))["choices"][0]["text"];
  };
  EXPECT_EQ(text({{"seed", 11}}), text({{"seed", 11}}));
  EXPECT_NE(text({{"seed", 11}}), text({{"seed", 12}}));
  EXPECT_NE(text(Json::object()), text(Json::object()));
}

TEST_F(ServerTest, DefaultsComeFromTheModelWhereTheRequestIsSilent) {
  defaults.do_sample = false;
  defaults.temperature = 0.7;
  start();
  const Json body = {{"prompt", "Once"}, {"max_tokens", 24}};
  EXPECT_EQ(ask(kCompletions, body)["choices"][0]["text"], ask(kCompletions, body)["choices"][0]["text"]);
  EXPECT_EQ(ask(kCompletions, body)["choices"][0]["text"],
            ask(kCompletions, merge(body, {{"temperature", 0}}))["choices"][0]["text"]);
  const Json sampled = merge(body, {{"temperature", 1}});
  EXPECT_NE(ask(kCompletions, sampled)["choices"][0]["text"],
            ask(kCompletions, sampled)["choices"][0]["text"]);
}

TEST_F(ServerTest, StopStringsEndTheTextStreamedOrNot) {
  start();
  const Json body = {{"prompt", "Once"}, {"max_tokens", 60}, {"seed", 3}, {"ignore_eos", true}};
  const std::string text = ask(kCompletions, body)["choices"][0]["text"];
  // A stop string from the middle of the text, cut at characters.
  size_t begin = text.size() / 2;
  while ((static_cast<unsigned char>(text[begin]) & 0xC0U) == 0x80U) ++begin;
  size_t end = begin + 5;
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) ++end;
  const std::string stop = text.substr(begin, end - begin);
  const Json with_stop = merge(body, {{"stop", Json::array({"not in there", stop})}});
  const Json answer = ask(kCompletions, with_stop);
  EXPECT_EQ(answer["choices"][0]["text"], text.substr(0, text.find(stop)));
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "stop");
  EXPECT_LT(answer["usage"]["completion_tokens"], 60);

  std::string streamed;
  for (const Json& message : ask_stream(kCompletions, with_stop)) {
    streamed += message["choices"][0]["text"].get<std::string>();
  }
  EXPECT_EQ(streamed, answer["choices"][0]["text"]);
  EXPECT_EQ(ask(kCompletions, merge(with_stop, {{"include_stop_str_in_output", true}}))["choices"][0]["text"],
            text.substr(0, text.find(stop)) + stop);

  const Json native =
      ask(kGenerate,
          {{"text", "Once"},
           {"sampling_params", {{"max_new_tokens", 60}, {"seed", 3}, {"ignore_eos", true}, {"stop", stop}}}});
  EXPECT_EQ(native["text"], answer["choices"][0]["text"]);
  EXPECT_EQ(native["meta_info"]["finish_reason"], Json({{"type", "stop"}, {"matched", stop}}));
  EXPECT_TRUE(eventually([this] { return engine_is_empty(); }));
  const std::string metrics = get("/metrics").body;
  EXPECT_NE(metrics.find("chorale_request_finished_total{model_name=\"tales\",reason=\"stop\"} 4"),
            std::string::npos);
  EXPECT_NE(metrics.find("chorale_request_finished_total{model_name=\"tales\",reason=\"abort\"} 0"),
            std::string::npos);
}

TEST_F(ServerTest, ChatLogprobsHaveTheRawBytes) {
  start();
  const Json body =
      merge(hello(),
            {{"max_tokens", 12}, {"logprobs", true}, {"top_logprobs", 3}, {"seed", 1}, {"ignore_eos", true}});
  const Json content = ask(kChat, body)["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 12U);
  for (const Json& entry : content) {
    EXPECT_TRUE(entry["token"].is_string());
    EXPECT_LT(entry["logprob"].get<double>(), 0);
    ASSERT_EQ(entry["top_logprobs"].size(), 3U);
    EXPECT_GE(entry["top_logprobs"][0]["logprob"].get<double>(),
              entry["top_logprobs"][1]["logprob"].get<double>());
    std::string bytes;
    for (const Json& byte : entry["bytes"]) bytes += static_cast<char>(byte.get<int>());
    EXPECT_EQ(Json::parse(to_text(bytes)), entry["token"]);
  }
  Json streamed = Json::array();
  for (const Json& message : ask_stream(kChat, body)) {
    const Json& logprobs = message["choices"][0]["logprobs"];
    if (logprobs.is_null()) continue;
    for (const Json& entry : logprobs["content"]) streamed.push_back(entry);
  }
  EXPECT_EQ(streamed, content);
}

TEST_F(ServerTest, CompletionsEchoThePromptWithItsLogprobs) {
  start();
  const Json body = {{"prompt", "Once upon a time"},
                     {"max_tokens", 4},
                     {"echo", true},
                     {"logprobs", 2},
                     {"seed", 1},
                     {"ignore_eos", true}};
  const Json answer = ask(kCompletions, body);
  const Json& choice = answer["choices"][0];
  const std::string text = choice["text"];
  EXPECT_TRUE(text.starts_with("Once upon a time"));
  const Json& logprobs = choice["logprobs"];
  const size_t tokens = answer["usage"]["total_tokens"].get<size_t>();
  for (const char* list : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
    EXPECT_EQ(logprobs[list].size(), tokens) << list;
  }
  EXPECT_TRUE(logprobs["token_logprobs"][0].is_null());
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
  for (size_t i = 1; i < tokens; ++i) {
    EXPECT_LT(logprobs["token_logprobs"][i].get<double>(), 0);
    EXPECT_GE(logprobs["top_logprobs"][i].size(), 1U);
    EXPECT_LE(logprobs["top_logprobs"][i].size(), 3U);
  }
  EXPECT_EQ(logprobs["text_offset"][0], 0);
  const size_t prompt_tokens = answer["usage"]["prompt_tokens"];
  EXPECT_EQ(logprobs["text_offset"][prompt_tokens], 16);

  std::string streamed;
  Json streamed_tokens = Json::array();
  Json streamed_offsets = Json::array();
  for (const Json& message : ask_stream(kCompletions, body)) {
    streamed += message["choices"][0]["text"].get<std::string>();
    const Json& part = message["choices"][0]["logprobs"];
    if (part.is_null()) continue;
    for (const Json& token : part["tokens"]) streamed_tokens.push_back(token);
    for (const Json& offset : part["text_offset"]) streamed_offsets.push_back(offset);
  }
  EXPECT_EQ(streamed, text);
  EXPECT_EQ(streamed_tokens, logprobs["tokens"]);
  EXPECT_EQ(streamed_offsets, logprobs["text_offset"]);

  const Json scored = ask(kCompletions, merge(body, {{"max_tokens", 0}}));
  EXPECT_EQ(scored["choices"][0]["text"], "Once upon a time");
  EXPECT_EQ(scored["usage"]["completion_tokens"], 0);
  EXPECT_EQ(scored["choices"][0]["logprobs"]["token_logprobs"].size(), prompt_tokens);
  EXPECT_EQ(scored["choices"][0]["finish_reason"], "length");
}

TEST_F(ServerTest, CompletionsTakeBatchesInOrder) {
  start();
  const Json answer = ask(kCompletions, {{"prompt", Json::array({"Once", "The king"})},
                                         {"n", 2},
                                         {"seed", 1},
                                         {"max_tokens", 8},
                                         {"echo", true},
                                         {"ignore_eos", true}});
  ASSERT_EQ(answer["choices"].size(), 4U);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(answer["choices"][i]["index"], i);
    EXPECT_TRUE(answer["choices"][i]["text"].get<std::string>().starts_with(i < 2 ? "Once" : "The king"));
  }
  const auto prompt_tokens = static_cast<int64_t>(bundled_tokenizer().encode("Once", true).size() +
                                                  bundled_tokenizer().encode("The king", true).size());
  EXPECT_EQ(answer["usage"]["prompt_tokens"], prompt_tokens);
  EXPECT_EQ(answer["usage"]["completion_tokens"], 32);
}

TEST_F(ServerTest, GenerateAnswersAsSglang) {
  start();
  const Json params = {{"max_new_tokens", 6}, {"temperature", 0}, {"ignore_eos", true}};
  const Json answer = ask(kGenerate, {{"input_ids", {1, 2, 3}},
                                      {"sampling_params", params},
                                      {"return_logprob", true},
                                      {"top_logprobs_num", 2},
                                      {"logprob_start_len", 0},
                                      {"rid", "mine"},
                                      {"return_text_in_logprobs", true}});
  const Json& meta = answer["meta_info"];
  EXPECT_EQ(meta["id"], "mine");
  EXPECT_EQ(meta["prompt_tokens"], 3);
  EXPECT_EQ(meta["completion_tokens"], 6);
  EXPECT_EQ(meta["finish_reason"], Json({{"type", "length"}, {"length", 6}}));
  ASSERT_EQ(answer["output_ids"].size(), 6U);
  ASSERT_EQ(meta["output_token_logprobs"].size(), 6U);
  EXPECT_EQ(meta["output_token_logprobs"][0][1], answer["output_ids"][0]);
  EXPECT_TRUE(meta["output_token_logprobs"][0][2].is_string());
  EXPECT_EQ(meta["output_top_logprobs"][5][0][1], answer["output_ids"][5]) << "greedy takes the likeliest";
  ASSERT_EQ(meta["input_token_logprobs"].size(), 3U);
  EXPECT_TRUE(meta["input_token_logprobs"][0][0].is_null());
  EXPECT_EQ(meta["input_token_logprobs"][2][1], 3);
  EXPECT_LT(meta["input_token_logprobs"][2][0].get<double>(), 0);

  const Json tail = ask(kGenerate, {{"input_ids", {1, 2, 3}},
                                    {"sampling_params", params},
                                    {"return_logprob", true},
                                    {"logprob_start_len", 2}});
  ASSERT_EQ(tail["meta_info"]["input_token_logprobs"].size(), 1U);
  EXPECT_EQ(tail["meta_info"]["input_token_logprobs"][0][0], meta["input_token_logprobs"][2][0]);

  const Json batch = ask(kGenerate, {{"input_ids", {{1, 2, 3}, {4}}}, {"sampling_params", params}});
  ASSERT_EQ(batch.size(), 2U);
  EXPECT_EQ(batch[0]["output_ids"], answer["output_ids"]);
}

TEST_F(ServerTest, GenerateStreamsTheWholeTextSoFar) {
  start();
  const Json body = {{"text", "Once"},
                     {"sampling_params", {{"max_new_tokens", 20}, {"seed", 4}, {"ignore_eos", true}}}};
  const Json whole = ask(kGenerate, body);
  const std::vector<Json> messages = ask_stream(kGenerate, body);
  std::string before;
  for (const Json& message : messages) {
    const std::string text = message["text"];
    EXPECT_TRUE(text.starts_with(before));
    before = text;
  }
  EXPECT_EQ(messages.back()["text"], whole["text"]);
  EXPECT_EQ(messages.back()["output_ids"], whole["output_ids"]);
  EXPECT_TRUE(messages.front()["meta_info"]["finish_reason"].is_null());
  EXPECT_EQ(messages.back()["meta_info"]["finish_reason"]["type"], "length");
}

TEST_F(ServerTest, AFailedRequestIsAnErrorStreamedOrNot) {
  runner.forced_token = 7;
  runner.nan_after = 7;
  start();
  const RawResponse whole = post(kCompletions, {{"prompt", "Once"}, {"temperature", 0}});
  EXPECT_EQ(whole.status, 500);
  const std::vector<Json> messages = ask_stream(kCompletions, {{"prompt", "Once"}, {"temperature", 0}});
  ASSERT_FALSE(messages.empty());
  EXPECT_EQ(messages.back()["error"]["code"], 500);
  EXPECT_TRUE(eventually([this] { return engine_is_empty(); }));
}

TEST_F(ServerTest, AClientThatGoesAwayFreesItsBlocks) {
  runner.step_microseconds = 3000;
  start();
  for (const bool stream : {false, true}) {
    for (const bool reset : {false, true}) {
      RawClient client(port);
      client.post(kChat, to_text(merge(hello(), {{"ignore_eos", true}, {"stream", stream}, {"n", 4}})));
      ASSERT_TRUE(eventually([this] { return engine->stats().kv_tokens_used > 0; }));
      if (stream) {
        ASSERT_TRUE(client.read_until("delta"));
      }
      reset ? client.reset() : client.close();
      EXPECT_TRUE(eventually([this] { return engine_is_empty(); }))
          << "stream " << stream << " reset " << reset;
    }
  }
  EXPECT_EQ(engine->stats().finished_aborted, 16U);
  EXPECT_EQ(engine->stats().finished_length, 0U);
}

TEST_F(ServerTest, AClientThatDoesNotReadIsCutOff) {
  options.http.max_write_queue_bytes = 4096;
  options.http.stall_timeout = std::chrono::milliseconds(50);
  start();
  RawClient client(port, 2048);
  const Json body = {{"prompt", std::vector<std::string>(64, "Once upon")},
                     {"n", 4},
                     {"max_tokens", 500},
                     {"ignore_eos", true},
                     {"stream", true},
                     {"logprobs", 20}};
  client.post(kCompletions, to_text(body));
  EXPECT_TRUE(eventually([this] { return engine->stats().finished_aborted > 0; }));
  EXPECT_TRUE(eventually([this] { return engine_is_empty(); }));
}

// Sequences of one length end in one step, and each then tells all it has.
TEST_F(ServerTest, AClientThatReadsIsNotCutOffByABurst) {
  options.http.max_write_queue_bytes = 4096;
  start();
  const Json body = {{"text", std::vector<std::string>(64, "Once upon")},
                     {"sampling_params", {{"max_new_tokens", 100}, {"ignore_eos", true}}},
                     {"return_logprob", true}};
  int ends = 0;
  for (const Json& message : ask_stream(kGenerate, body)) {
    if (!message["meta_info"]["finish_reason"].is_null()) ++ends;
  }
  EXPECT_EQ(ends, 64);
  EXPECT_EQ(engine->stats().finished_aborted, 0U);
}

TEST_F(ServerTest, AFullQueueIsA503ThatLeavesNothingBehind) {
  engine_options.max_queued_requests = 4;
  engine_options.max_running_requests = 1;
  runner.step_microseconds = 2000;
  start();
  const auto body = [](int n) {
    return Json{{"prompt", "Once"}, {"n", n}, {"max_tokens", 400}, {"ignore_eos", true}};
  };
  EXPECT_EQ(error_of(kCompletions, body(5), 400)["param"], "n");
  RawClient client(port);
  client.post(kCompletions, to_text(body(4)));
  ASSERT_TRUE(eventually([this] { return engine->stats().waiting == 3; }));
  const RawResponse response = post(kCompletions, body(2));
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(response.headers.at("Retry-After"), "1");
  EXPECT_EQ(engine->stats().waiting, 3);
  client.reset();
  EXPECT_TRUE(eventually([this] { return engine_is_empty(); }));
  EXPECT_EQ(engine->stats().finished_aborted, 4U);
}

TEST_F(ServerTest, AHealthCheckDoesNotWaitForeverForAToken) {
  options.health_check_timeout_seconds = 0.05;
  runner.step_microseconds = 2'000'000;
  start();
  const RawResponse response = get("/health_generate");
  EXPECT_EQ(response.status, 503);
  const Json error = Json::parse(response.body)["error"];
  EXPECT_EQ(error["message"], "the model has made no token in 0.05 seconds");
  EXPECT_EQ(error["type"], "service_unavailable_error");
  EXPECT_EQ(get("/health").status, 200);
  EXPECT_TRUE(eventually([this] { return engine_is_empty(); }));  // nothing is left of the check
}

TEST_F(ServerTest, DrainsWithAStreamThatEnds) {
  runner.step_microseconds = 5000;
  start();
  RawClient client(port);
  client.post(kCompletions, to_text({{"prompt", "Once"},
                                     {"max_tokens", 100},
                                     {"ignore_eos", true},
                                     {"stream", true},
                                     {"stream_options", {{"include_usage", true}}}}));
  ASSERT_TRUE(client.read_until("text_completion"));
  server->stop();
  EXPECT_EQ(get("/health").status, 503);
  const RawResponse refused = post(kCompletions, {{"prompt", "Once"}});
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers.at("Retry-After"), "1");
  const RawResponse response = client.read_response();
  const std::vector<std::string> events = response.events();
  ASSERT_GE(events.size(), 3U);
  EXPECT_EQ(events.back(), "[DONE]");
  EXPECT_EQ(Json::parse(events[events.size() - 2])["usage"]["completion_tokens"], 100);
  EXPECT_EQ(Json::parse(events[events.size() - 3])["choices"][0]["finish_reason"], "length");
  stop();
  EXPECT_FALSE(RawClient(port).connected());
}

TEST_F(ServerTest, EndsWhatDoesNotFinishInTime) {
  runner.step_microseconds = 20'000;
  options.drain_timeout_seconds = 0.2;
  start();
  RawClient whole(port);
  whole.post(kCompletions, to_text({{"prompt", "Once"}, {"max_tokens", 500}, {"ignore_eos", true}}));
  RawClient stream(port);
  stream.post(kCompletions,
              to_text({{"prompt", "Once"}, {"max_tokens", 500}, {"ignore_eos", true}, {"stream", true}}));
  ASSERT_TRUE(stream.read_until("text_completion"));
  const auto begin = std::chrono::steady_clock::now();
  stop();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  EXPECT_EQ(whole.read_response().status, 503);
  const std::vector<std::string> events = stream.read_response().events();
  ASSERT_GE(events.size(), 2U);
  EXPECT_EQ(Json::parse(events[events.size() - 2])["error"]["code"], 503);
  EXPECT_EQ(events.back(), "[DONE]");
}

TEST_F(ServerTest, ManyAtOnceGetWhatTheyGetAlone) {
  runner.step_microseconds = 200;
  start();
  std::vector<Json> bodies;
  for (int i = 0; i < 64; ++i) {
    bodies.push_back({{"prompt", "Tale number " + std::to_string(i)},
                      {"max_tokens", 5 + i % 30},
                      {"seed", i},
                      {"temperature", i % 3 == 0 ? 0.0 : 1.0},
                      {"n", 1 + i % 3},
                      {"logprobs", 2}});
  }
  std::vector<Json> alone;
  for (const Json& body : bodies) alone.push_back(ask(kCompletions, body)["choices"]);
  std::vector<Json> together(bodies.size());
  std::vector<std::thread> threads;
  for (size_t i = 0; i < bodies.size(); ++i) {
    threads.emplace_back([&, i] { together[i] = ask(kCompletions, bodies[i])["choices"]; });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < bodies.size(); ++i) EXPECT_EQ(together[i], alone[i]) << bodies[i];
  EXPECT_TRUE(eventually([this] { return engine_is_empty(); }));
}

TEST_F(ServerTest, MetricsCount) {
  start();
  ask(kCompletions, {{"prompt", "Once"}, {"max_tokens", 7}, {"ignore_eos", true}, {"n", 2}});
  const std::string text = get("/metrics").body;
  for (const char* line :
       {"# TYPE chorale_num_requests_running gauge", "chorale_num_requests_running{model_name=\"tales\"} 0",
        "chorale_kv_cache_capacity_tokens{model_name=\"tales\"} 8192",
        "chorale_kv_cache_tokens_used{model_name=\"tales\"} 0",
        "# TYPE chorale_generation_tokens_total counter",
        "chorale_generation_tokens_total{model_name=\"tales\"} 14",
        "chorale_time_to_first_token_seconds_count{model_name=\"tales\"} 2",
        "chorale_inter_token_latency_seconds_count{model_name=\"tales\"} 12",
        "chorale_e2e_request_latency_seconds_count{model_name=\"tales\"} 2",
        "chorale_request_finished_total{model_name=\"tales\",reason=\"length\"} 2",
        "chorale_request_finished_total{model_name=\"tales\",reason=\"abort\"} 0"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << " in\n" << text;
  }
}

TEST_F(ServerTest, MetricsCountAnErrorOnce) {
  runner.nan_after = 300;
  start();
  error_of(kCompletions, {{"prompt", Json::array({300})}, {"max_tokens", 7}}, 500);
  const std::string text = get("/metrics").body;
  for (const char* line : {"chorale_request_finished_total{model_name=\"tales\",reason=\"error\"} 1",
                           "chorale_request_finished_total{model_name=\"tales\",reason=\"abort\"} 0",
                           "chorale_num_aborted_requests_total{model_name=\"tales\"} 0",
                           "chorale_time_to_first_token_seconds_count{model_name=\"tales\"} 0",
                           "chorale_e2e_request_latency_seconds_count{model_name=\"tales\"} 0",
                           "chorale_request_queue_time_seconds_count{model_name=\"tales\"} 1",
                           "chorale_http_responses_total{model_name=\"tales\",code=\"500\"} 1"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << " in\n" << text;
  }
}

}  // namespace
}  // namespace chorale::server
