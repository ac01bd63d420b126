#include "tools/bench_serve/server_facts.h"

#include <limits>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace chorale::bench_serve {
namespace {

using Json = nlohmann::json;

constexpr int kOk = 200;

// Throws Error when there is no whole answer.
HttpAnswer ask_reachable(HttpClient& client, const std::string& method, const std::string& path) {
  HttpAnswer answer = ask(client, method, path);
  if (!answer.end.error.empty())
    throw_error("the server at {} cannot be reached: {}", client.url().text(), answer.end.error);
  return answer;
}

std::optional<int64_t> read_vocab_size(const HttpAnswer& answer) {
  if (answer.end.status != kOk) return std::nullopt;
  const Json info = Json::parse(answer.body, nullptr, false);
  const auto size = info.is_object() ? info.find("vocab_size") : info.end();
  if (!info.is_object() || size == info.end() || !size->is_number_integer()) return std::nullopt;
  const auto value = size->get<int64_t>();
  const bool fits = value > 0 && value <= std::numeric_limits<int32_t>::max();
  return fits ? std::optional(value) : std::nullopt;
}

}  // namespace

std::string first_model(HttpClient& client) {
  const HttpAnswer answer = ask_reachable(client, "GET", "/v1/models");
  const std::string where = client.url().text();
  if (answer.end.status != kOk)
    throw_error("{}: /v1/models was answered with HTTP {}; name the model with --model{}", where,
                answer.end.status, answer.end.status == 401 ? " and give the server's --api-key" : "");
  const Json models = Json::parse(answer.body, nullptr, false);
  const Json::json_pointer id("/data/0/id");
  if (!models.is_object() || !models.contains(id) || !models.at(id).is_string())
    throw_error("{}: /v1/models names no model; name it with --model", where);
  return models.at(id).get<std::string>();
}

int64_t vocabulary_size(HttpClient& client) {
  const HttpAnswer answer = ask_reachable(client, "GET", "/get_model_info");
  if (const auto size = read_vocab_size(answer)) return *size;
  throw_error(
      "{} does not tell the size of its vocabulary, which random token ids are drawn from: give "
      "--vocab-size, or --tokenizer to send random texts",
      client.url().text());
}

void flush_cache(HttpClient& client) {
  const HttpAnswer answer = ask_reachable(client, "POST", "/flush_cache");
  if (answer.end.status != kOk)
    throw_error("--flush-cache: {} answered /flush_cache with HTTP {}", client.url().text(),
                answer.end.status);
}

}  // namespace chorale::bench_serve
