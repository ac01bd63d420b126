// What different clients learn of each other, and may do to each other.
#include <set>
#include <string>
#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "unit/server/server_fixture.h"

namespace chorale::server {
namespace {

class KeysTest : public ServerTest {
 protected:
  RawResponse post_as(std::string_view key, std::string_view path, const Json& body) const {
    RawClient client(port);
    client.post(path, to_text(body), fmt::format("Authorization: Bearer {}\r\n", key));
    return client.read_response();
  }
  RawResponse ask_as(std::string_view key, std::string_view method, std::string_view path) const {
    RawClient client(port);
    client.send(
        fmt::format("{} {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 0\r\n\r\n",
                    method, path, key));
    return client.read_response();
  }
  // Tokens of the prompt that were cached.
  int64_t cached(std::string_view key, const Json& more = Json::object()) const {
    Json body = {{"prompt", kPrompt}, {"max_tokens", 1}};
    body.update(more);
    const RawResponse response = post_as(key, "/v1/completions", body);
    EXPECT_EQ(response.status, 200) << response.body;
    return Json::parse(response.body)["usage"]["prompt_tokens_details"]["cached_tokens"].get<int64_t>();
  }

  // Several KV blocks.
  static inline const std::string kPrompt =
      "Once upon a time there was a little fox who lived in the wood with a bird and a bear, and every day "
      "the fox went to the river to see the fish, and the bird sang a song for the bear.";
};

TEST_F(KeysTest, SaltsDivideTheCache) {
  start();
  EXPECT_EQ(cached("any"), 0);
  EXPECT_GT(cached("any"), 0);
  EXPECT_EQ(cached("any", {{"cache_salt", "one"}}), 0);
  EXPECT_GT(cached("any", {{"cache_salt", "one"}}), 0);
  EXPECT_EQ(cached("any", {{"cache_salt", "two"}}), 0);
  EXPECT_GT(cached("any"), 0);
  for (const char* path : {"/v1/completions", "/generate", "/v1/chat/completions"}) {
    const Json body = {{"prompt", "a"}, {"text", "a"}, {"cache_salt", ""}};
    EXPECT_EQ(error_of(path, body, 400).value("param", ""), "cache_salt") << path;
  }
}

TEST_F(KeysTest, KeysShareTheCacheUnlessTheyAreIsolated) {
  options.http.api_keys = {"alice", "bob"};
  start();
  EXPECT_EQ(cached("alice"), 0);
  EXPECT_GT(cached("bob"), 0);
  stop();
  options.isolate_keys = true;
  start();
  EXPECT_EQ(cached("alice"), 0);
  EXPECT_EQ(cached("bob"), 0);
  EXPECT_GT(cached("bob"), 0);
  EXPECT_EQ(cached("bob", {{"cache_salt", "x"}}), 0);
  EXPECT_EQ(cached("alice", {{"cache_salt", "x"}}), 0);
}

TEST_F(KeysTest, AnIsolatedKeyEndsItsOwnRequestsAlone) {
  options.http.api_keys = {"alice", "bob"};
  options.isolate_keys = true;
  runner.step_microseconds = 5000;
  start();
  const Json body = {{"text", "Once"},
                     {"rid", "mine"},
                     {"sampling_params", {{"max_new_tokens", 400}, {"ignore_eos", true}}}};
  RawResponse response;
  std::thread alice([&] { response = post_as("alice", "/generate", body); });
  ASSERT_TRUE(eventually([&] { return engine->stats().running == 1; }));
  for (const Json& abort : {Json{{"rid", "mine"}}, Json{{"abort_all", true}}}) {
    EXPECT_EQ(Json::parse(post_as("bob", "/abort_request", abort).body)["aborted"], 0);
  }
  EXPECT_EQ(engine->stats().running, 1);
  EXPECT_EQ(Json::parse(post_as("alice", "/abort_request", {{"rid", "mine"}}).body)["aborted"], 1);
  alice.join();
  EXPECT_EQ(Json::parse(response.body)["meta_info"]["finish_reason"]["type"], "abort");
}

TEST_F(KeysTest, AStoredResponseIsThereForItsOwnKeyAlone) {
  options.http.api_keys = {"alice", "bob"};
  for (const bool isolated : {false, true}) {
    options.isolate_keys = isolated;
    start();
    const Json body = {{"input", "Once"}, {"max_output_tokens", 2}};
    const std::string id = Json::parse(post_as("alice", "/v1/responses", body).body)["id"];
    const std::string path = "/v1/responses/" + id;
    Json next = body;
    next["previous_response_id"] = id;
    const auto statuses = [&](std::string_view key) {
      return std::vector<int>{ask_as(key, "GET", path).status,
                              ask_as(key, "GET", path + "/input_items").status,
                              ask_as(key, "POST", path + "/cancel").status,
                              post_as(key, "/v1/responses", next).status, ask_as(key, "DELETE", path).status};
    };
    EXPECT_EQ(statuses("bob"), (std::vector<int>{404, 404, 404, 404, 404}));
    const std::string none = fmt::format("there is no response '{}'", id);
    EXPECT_EQ(Json::parse(ask_as("bob", "GET", path).body)["error"]["message"], none)
        << "as of one that never was";
    EXPECT_EQ(statuses("alice"), (std::vector<int>{200, 200, 400, 200, 200}));
    EXPECT_EQ(statuses("alice"), (std::vector<int>{404, 404, 404, 404, 404}));
    stop();
  }
}

TEST_F(KeysTest, ARunningResponseIsCancelledByItsOwnKeyAlone) {
  options.http.api_keys = {"alice", "bob"};
  runner.step_microseconds = 5000;
  start();
  const Json body = {{"input", "Once"}, {"max_output_tokens", 400}, {"ignore_eos", true}, {"stream", true}};
  RawClient alice(port);
  alice.post("/v1/responses", to_text(body), "Authorization: Bearer alice\r\n");
  const std::string path = "/v1/responses/resp_" + alice.see_after("\"resp_", 32);
  EXPECT_EQ(ask_as("bob", "POST", path + "/cancel").status, 404) << path;
  EXPECT_EQ(engine->stats().running, 1);
  EXPECT_EQ(ask_as("alice", "POST", path + "/cancel").status, 200);
  EXPECT_TRUE(eventually([&] { return engine_is_empty(); }));
}

TEST_F(KeysTest, WithoutKeysWhoeverKnowsItsIdFindsAStoredResponse) {
  start();
  const std::string id = ask("/v1/responses", {{"input", "Once"}, {"max_output_tokens", 2}})["id"];
  EXPECT_EQ(ask_as("any", "GET", "/v1/responses/" + id).status, 200);
  stop();
  options.isolate_keys = true;  // behind a proxy that knows the keys
  start();
  const Json body = {{"input", "Once"}, {"max_output_tokens", 2}};
  const std::string own = Json::parse(post_as("alice", "/v1/responses", body).body)["id"];
  EXPECT_EQ(ask_as("bob", "GET", "/v1/responses/" + own).status, 404);
  EXPECT_EQ(get("/v1/responses/" + own).status, 404);
  EXPECT_EQ(ask_as("alice", "GET", "/v1/responses/" + own).status, 200);
}

// What they answer beyond the door is not looked at here: that this model has no experts, for example.
TEST_F(KeysTest, AdministratorsDoorsOpenForTheirKeyAlone) {
  options.http.api_keys = {"client"};
  options.http.admin_api_keys = {"admin"};
  start();
  for (const std::string path : {"/switch_strategy", "/switch_strategy/", "/rebalance_experts",
                                 "/flush_cache", "/flush_cache/", "/start_expert_distribution_record",
                                 "/stop_expert_distribution_record", "/dump_expert_distribution_record"}) {
    EXPECT_EQ(ask_as("", "POST", path).status, 401) << path;
    EXPECT_EQ(ask_as("other", "POST", path).status, 401) << path;
    const RawResponse refused = ask_as("client", "POST", path);
    EXPECT_EQ(refused.status, 403) << path;
    EXPECT_EQ(Json::parse(refused.body)["error"]["message"],
              "this takes an administrator's key (--admin-api-key)");
    const int answered = ask_as("admin", "POST", path).status;
    EXPECT_TRUE(answered == 200 || answered == 400) << path << " " << answered;
  }
  EXPECT_EQ(ask_as("client", "GET", "/flush_cache").status, 403);
  EXPECT_EQ(ask_as("client", "GET", "/get_server_info").status, 200);
  EXPECT_EQ(ask_as("admin", "GET", "/get_server_info").status, 200);
  EXPECT_EQ(ask_as("", "GET", "/get_server_info").status, 401);
  EXPECT_EQ(ask_as("", "GET", "/health").status, 200);
  stop();
  options.http.admin_api_keys.clear();
  start();
  EXPECT_EQ(ask_as("client", "POST", "/flush_cache").status, 200);
}

TEST_F(KeysTest, IdsHaveNothingInCommon) {
  start();
  std::set<std::string> beginnings;
  for (int i = 0; i < 10; ++i) {
    const std::string id = ask("/v1/completions", {{"prompt", "a"}, {"max_tokens", 1}})["id"];
    EXPECT_EQ(id.size(), std::string("cmpl-").size() + 32);
    beginnings.insert(id.substr(0, 13));
  }
  EXPECT_EQ(beginnings.size(), 10U);
}

TEST_F(KeysTest, UntilTheModelIsThereEveryRequestIsA503) {
  engine = std::make_unique<engine::Engine>(runner, engine_options);
  Server early(options);
  early.listen();
  early.begin();
  port = std::stoi(early.url().substr(early.url().rfind(':') + 1));
  for (const char* path : {"/health", "/v1/models", "/nowhere"}) {
    const RawResponse response = get(path);
    EXPECT_EQ(response.status, 503) << path;
    EXPECT_EQ(response.headers.at("Retry-After"), "1");
  }
  EXPECT_EQ(post("/v1/completions", {{"prompt", "a"}}).status, 503);
  early.set_model({.engine = *engine, .tokenizer = bundled_tokenizer(), .max_context_len = kContext});
  std::thread running([&] { early.run(); });
  EXPECT_TRUE(eventually([&] { return get("/health").status == 200; }));
  EXPECT_EQ(post("/v1/completions", {{"prompt", "a"}, {"max_tokens", 1}}).status, 200);
  early.stop();
  running.join();
}

TEST_F(KeysTest, AServerWhoseModelDoesNotLoadEnds) {
  Server early(options);
  early.listen();
  early.begin();
}

}  // namespace
}  // namespace chorale::server
