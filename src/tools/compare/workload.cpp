#include "tools/compare/workload.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <optional>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/random.h"
#include "tools/load_tokenizer.h"

namespace chorale::tools {
namespace {

constexpr int64_t kMaxRequests = 65536;
constexpr int64_t kMaxTokens = int64_t{1} << 20;  // in one request's prompt, and in its output
constexpr int32_t kTopLogprobs = 4;
constexpr uint32_t kSeedStream = 0;  // where seeds come from; request r's tokens come from stream r + 1

engine::GenerationRequest make_request(size_t index, std::vector<int32_t> ids, int64_t new_tokens,
                                       uint64_t seed) {
  engine::GenerationRequest request;
  request.id = fmt::format("request {}", index);
  request.prompt_ids = std::move(ids);
  request.sampling.max_new_tokens = new_tokens;
  request.sampling.temperature = 1;
  request.sampling.seed = random_bits(seed, kSeedStream, index);
  request.num_top_logprobs = kTopLogprobs;
  return request;
}

// The number at the front of the text, which is taken away; nullopt when there is none from 1 to `most`.
std::optional<int64_t> take_number(std::string_view& text, int64_t most) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value < 1 || value > most) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return value;
}

bool take(std::string_view& text, std::string_view front) {
  if (!text.starts_with(front)) return false;
  text.remove_prefix(front.size());
  return true;
}

Prompt parse_json_prompt(std::string_view line, int64_t default_max_new_tokens, const std::string& where) {
  const auto object = nlohmann::json::parse(line, nullptr, false);
  if (!object.is_object()) throw_error("{}: expected a JSON object, as on the first line of the file", where);
  const auto text = object.find("prompt");
  if (text == object.end() || !text->is_string()) throw_error("{}: expected a text \"prompt\"", where);
  Prompt prompt{.text = text->get<std::string>(), .max_new_tokens = default_max_new_tokens};
  const auto tokens = object.find("max_tokens");
  if (tokens == object.end()) return prompt;
  if (!tokens->is_number_integer() || *tokens < 1 || *tokens > kMaxTokens)
    throw_error("{}: expected \"max_tokens\" to be a number from 1 to {}, found {}", where, kMaxTokens,
                tokens->dump());
  prompt.max_new_tokens = tokens->get<int64_t>();
  return prompt;
}

void check_length(int64_t prompt_tokens, int64_t new_tokens, int64_t context_length, std::string_view where) {
  if (prompt_tokens + new_tokens > context_length)
    throw_error("{}: {} prompt tokens and {} new ones; the model's context has {}", where, prompt_tokens,
                new_tokens, context_length);
}

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r") == std::string_view::npos;
}

}  // namespace

int64_t Workload::prompt_tokens() const {
  return std::transform_reduce(requests.begin(), requests.end(), int64_t{0}, std::plus<>(),
                               [](const auto& r) { return static_cast<int64_t>(r.prompt_ids.size()); });
}

int64_t Workload::max_new_tokens() const {
  return std::transform_reduce(requests.begin(), requests.end(), int64_t{0}, std::plus<>(),
                               [](const auto& r) { return r.sampling.max_new_tokens; });
}

int64_t Workload::longest() const {
  int64_t longest = 0;
  for (const engine::GenerationRequest& r : requests)
    longest = std::max(longest, static_cast<int64_t>(r.prompt_ids.size()) + r.sampling.max_new_tokens);
  return longest;
}

RandomWorkload parse_random_workload(std::string_view text) {
  std::string_view rest = text;
  if (take(rest, "random:")) {
    const auto requests = take_number(rest, kMaxRequests);
    const bool times = requests && take(rest, "x");
    const auto prompt_tokens = times ? take_number(rest, kMaxTokens) : std::nullopt;
    const bool plus = prompt_tokens && take(rest, "+");
    const auto new_tokens = plus ? take_number(rest, kMaxTokens) : std::nullopt;
    if (new_tokens && rest.empty()) return {*requests, *prompt_tokens, *new_tokens};
  }
  throw_error(
      "--workload: expected random:REQUESTSxPROMPT+NEW, as in random:64x128+64 for 64 requests of 128 prompt "
      "tokens and 64 new ones, with at most {} requests and {} tokens; found \"{}\"",
      kMaxRequests, kMaxTokens, text);
}

Workload make_random(const RandomWorkload& shape, int64_t vocab_size, int64_t context_length, uint64_t seed) {
  check_length(shape.prompt_tokens, shape.new_tokens, context_length, "--workload");
  Workload workload;
  workload.description = fmt::format("{} requests of {} random tokens, {} new tokens each", shape.requests,
                                     shape.prompt_tokens, shape.new_tokens);
  for (int64_t r = 0; r < shape.requests; ++r) {
    std::vector<int32_t> ids(static_cast<size_t>(shape.prompt_tokens));
    const auto stream = static_cast<uint32_t>(r + 1);
    for (size_t i = 0; i < ids.size(); ++i)
      ids[i] = static_cast<int32_t>(random_uniform(seed, stream, i) * static_cast<double>(vocab_size));
    workload.requests.push_back(make_request(static_cast<size_t>(r), std::move(ids), shape.new_tokens, seed));
    workload.requests.back().sampling.ignore_eos = true;
  }
  return workload;
}

std::vector<Prompt> parse_prompts(std::string_view text, std::string_view source,
                                  int64_t default_max_new_tokens) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  const bool is_json = first != std::string_view::npos && text[first] == '{';
  std::vector<Prompt> prompts;
  int64_t number = 0;
  for (size_t from = 0; from < text.size();) {
    const size_t end = std::min(text.find('\n', from), text.size());
    std::string_view line = text.substr(from, end - from);
    from = end + 1;
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (is_blank(line)) continue;
    const std::string where = fmt::format("{}, line {}", source, number);
    if (!is_valid_utf8(line)) throw_error("{}: the text is not valid UTF-8", where);
    prompts.push_back(is_json ? parse_json_prompt(line, default_max_new_tokens, where)
                              : Prompt{.text = std::string(line), .max_new_tokens = default_max_new_tokens});
    prompts.back().line = number;
  }
  if (prompts.empty()) throw_error("{}: there is no prompt in it", source);
  if (std::ssize(prompts) > kMaxRequests)
    throw_error("{}: {} prompts are too many; at most {} are run", source, prompts.size(), kMaxRequests);
  return prompts;
}

Workload make_from_prompts(const std::vector<Prompt>& prompts, const text::Tokenizer& tokenizer,
                           std::string_view source, int64_t context_length, uint64_t seed) {
  Workload workload;
  for (const Prompt& prompt : prompts) {
    std::vector<int32_t> ids = tokenizer.encode(prompt.text, true);
    const std::string where = fmt::format("{}, line {}", source, prompt.line);
    if (ids.empty()) throw_error("{}: the prompt has no tokens", where);
    check_length(std::ssize(ids), prompt.max_new_tokens, context_length, where);
    workload.requests.push_back(
        make_request(workload.requests.size(), std::move(ids), prompt.max_new_tokens, seed));
  }
  workload.description =
      fmt::format("{} prompts from a file with {} tokens in all, up to {} new tokens in all", prompts.size(),
                  workload.prompt_tokens(), workload.max_new_tokens());
  return workload;
}

}  // namespace chorale::tools
