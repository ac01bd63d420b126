// A whole server in the test's process: bundled tokenizer and chat template, a fake model, an ephemeral port.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include <gtest/gtest.h>

#include "base/log.h"
#include "engine/engine.h"
#include "server/server.h"
#include "server/wire/json_body.h"
#include "source_dir.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "unit/server/fake_model.h"
#include "unit/server/http/raw_client.h"

namespace chorale::server {

inline constexpr int32_t kEos = 4066;  // <|im_end|>
inline constexpr int64_t kContext = 512;

inline const text::Tokenizer& bundled_tokenizer() {
  static const text::Tokenizer tokenizer = text::Tokenizer::load(source_dir() / "models/tales-moe");
  return tokenizer;
}

class ServerTest : public ::testing::Test {
 protected:
  ServerTest() : runner(bundled_tokenizer().vocab_size()) {
    log::set_level(log::Level::error);
    options.http.port = 0;
    options.handle_signals = false;
    options.served_model_name = "tales";
    engine_options.max_total_tokens = 8192;
    engine_options.max_context_len = kContext;
    engine_options.eos_token_ids = {kEos};
    chat = text::ChatTemplate::load(source_dir() / "models/tales-moe");
  }
  ~ServerTest() override { stop(); }

  // Starts what the members describe.
  void start() {
    engine = std::make_unique<engine::Engine>(runner, engine_options);
    server = std::make_unique<Server>(options, ServerModel{.engine = *engine,
                                                           .tokenizer = bundled_tokenizer(),
                                                           .chat = chat ? &*chat : nullptr,
                                                           .defaults = defaults,
                                                           .max_context_len = kContext,
                                                           .model_path = "/somewhere/tales"});
    server->listen();
    port = std::stoi(server->url().substr(server->url().rfind(':') + 1));
    thread_ = std::thread([this] { server->run(); });
  }

  // Drains and waits for the end.
  void stop() {
    if (!thread_.joinable()) return;
    server->stop();
    thread_.join();
    server.reset();
    engine.reset();
  }

  RawResponse post(std::string_view path, const Json& body) const {
    RawClient client(port);
    client.post(path, to_text(body));
    return client.read_response();
  }
  RawResponse get(std::string_view path) const {
    RawClient client(port);
    client.get(path);
    return client.read_response();
  }
  // The answer's JSON; fails the test when the status is not 200.
  Json ask(std::string_view path, const Json& body) const {
    const RawResponse response = post(path, body);
    EXPECT_EQ(response.status, 200) << response.body;
    return Json::parse(response.body);
  }
  // The messages of a stream, [DONE] checked and left out.
  std::vector<Json> ask_stream(std::string_view path, Json body) const {
    body["stream"] = true;
    const RawResponse response = post(path, body);
    EXPECT_EQ(response.status, 200) << response.body;
    std::vector<Json> messages;
    std::vector<std::string> events = response.events();
    EXPECT_FALSE(events.empty());
    if (events.empty()) return messages;
    EXPECT_EQ(events.back(), "[DONE]");
    events.pop_back();
    for (const std::string& event : events) messages.push_back(Json::parse(event));
    return messages;
  }
  Json error_of(std::string_view path, const Json& body, int status) const {
    const RawResponse response = post(path, body);
    EXPECT_EQ(response.status, status) << to_text(body) << " gave " << response.body;
    return Json::parse(response.body).value("error", Json::object());
  }

  static bool eventually(const std::function<bool()>& condition) {
    for (int i = 0; i < 500; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }
  bool engine_is_empty() const {
    const engine::EngineStats stats = engine->stats();
    return stats.running == 0 && stats.waiting == 0 && stats.kv_tokens_used == 0;
  }

  ScriptedRunner runner;
  ServerOptions options;
  engine::EngineOptions engine_options;
  io::GenerationDefaults defaults;
  std::optional<text::ChatTemplate> chat;
  std::unique_ptr<engine::Engine> engine;
  std::unique_ptr<Server> server;
  int port = 0;

 private:
  std::thread thread_;
};

}  // namespace chorale::server
