#include "tools/bench_serve/sharegpt.h"

#include <numeric>
#include <optional>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/random.h"
#include "io/json_reader.h"
#include "tools/bench_serve/random_streams.h"

namespace chorale::bench_serve {
namespace {

using Json = nlohmann::json;

// The well-known file has 94,145 conversations of up to some hundred turns.
constexpr io::JsonLimits kLimits{.max_depth = 32, .max_values = 100'000'000};
constexpr int64_t kLeastTokens = 2;  // a prompt's and a reply's, where they are counted

std::string read_turn(const Json& turns, size_t index, const std::string& where) {
  const Json& turn = turns[index];
  const auto value = turn.is_object() ? turn.find("value") : turn.end();
  if (!turn.is_object() || value == turn.end() || !value->is_string())
    throw_error("{}, turn {}: expected an object with a text \"value\"", where, index);
  return value->get<std::string>();
}

std::optional<Exchange> read_conversation(const Json& item, const std::string& where) {
  if (!item.is_object()) throw_error("{}: expected an object, found {}", where, io::describe(item));
  auto turns = item.find("conversations");
  if (turns == item.end()) turns = item.find("conversation");
  if (turns == item.end() || !turns->is_array()) throw_error("{}: expected a list \"conversations\"", where);
  if (turns->size() < 2) return std::nullopt;
  return Exchange{read_turn(*turns, 0, where), read_turn(*turns, 1, where)};
}

std::optional<Request> make_request(const Exchange& exchange, const ShareGptShape& shape,
                                    const text::Tokenizer* tokenizer) {
  if (exchange.prompt.empty()) return std::nullopt;
  Request request{.prompt = exchange.prompt, .prompt_tokens = {}, .output_tokens = shape.output_tokens};
  if (tokenizer == nullptr) return request;
  request.prompt_tokens = std::ssize(tokenizer->encode(exchange.prompt, true));
  if (shape.output_tokens == 0) {
    request.output_tokens = std::ssize(tokenizer->encode(exchange.reply, false));
    if (request.output_tokens < kLeastTokens) return std::nullopt;
  }
  const int64_t all = *request.prompt_tokens + request.output_tokens;
  if (*request.prompt_tokens < kLeastTokens) return std::nullopt;
  if (shape.context_tokens > 0 && all > shape.context_tokens) return std::nullopt;
  return request;
}

}  // namespace

std::vector<Exchange> parse_sharegpt(std::string_view text, std::string_view source) {
  const Json list = io::parse_json_array(text, source, kLimits);
  std::vector<Exchange> exchanges;
  for (size_t i = 0; i < list.size(); ++i) {
    auto exchange = read_conversation(list[i], fmt::format("{}: conversation {}", source, i));
    if (exchange) exchanges.push_back(*std::move(exchange));
  }
  if (exchanges.empty()) throw_error("{}: no conversation in it has two turns", source);
  return exchanges;
}

std::vector<Request> sample_sharegpt(const std::vector<Exchange>& exchanges, const ShareGptShape& shape,
                                     const text::Tokenizer* tokenizer, uint64_t seed) {
  CHORALE_CHECK(tokenizer != nullptr || (shape.output_tokens > 0 && shape.context_tokens == 0));
  std::vector<size_t> order(exchanges.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::vector<Request> requests;
  // Fisher and Yates, no further than needed.
  for (size_t i = 0; i < order.size() && std::ssize(requests) < shape.requests; ++i) {
    const double place = random_uniform(seed, kShuffleStream, i) * static_cast<double>(order.size() - i);
    std::swap(order[i], order[i + static_cast<size_t>(place)]);
    if (auto request = make_request(exchanges[order[i]], shape, tokenizer))
      requests.push_back(*std::move(request));
  }
  return requests;
}

}  // namespace chorale::bench_serve
