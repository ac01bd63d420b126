#include "tools/simulate/requests.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/math.h"
#include "base/random.h"
#include "tools/bench_serve/random_streams.h"

namespace chorale::simulate {
namespace {

constexpr int64_t kMaxRequests = int64_t{1} << 32;
constexpr int64_t kMaxTokens = int64_t{1} << 20;
constexpr double kMaxSeconds = 1e9;
constexpr uint32_t kTraceTokenStream = 15;  // the streams below are those of bench serve

// Tokens that follow from a key, quickly: a multiplication by an odd number spreads it, and what follows goes
// through all words before one comes again.
void append_tokens(uint64_t key, int64_t count, int64_t vocab_size, std::vector<int32_t>& ids) {
  uint64_t state = key;
  for (int64_t i = 0; i < count; ++i) {
    state += 0x9e3779b97f4a7c15;
    uint64_t word = state;
    word = (word ^ (word >> 32)) * 0xbf58476d1ce4e5b9;
    // The upper half, scaled to the vocabulary.
    ids.push_back(static_cast<int32_t>(((word >> 32) * static_cast<uint64_t>(vocab_size)) >> 32));
  }
}

// Takes a number of at least 1 from the front.
std::optional<int64_t> take_number(std::string_view& text, int64_t most) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || value < 1 || value > most) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return value;
}

bool take(std::string_view& text, char front) {
  if (text.empty() || text.front() != front) return false;
  text.remove_prefix(1);
  return true;
}

Time to_time(double seconds) {
  return Time(std::llround(std::min(seconds, kMaxSeconds) * 1e9));
}

// Times of a Poisson process, as bench_serve::arrival_times has them.
class Arrivals {
 public:
  Arrivals(RateProfile rate, uint64_t seed) : rate_(std::move(rate)), seed_(seed) {}

  Time next() {
    if (index_ > 0) requests_ -= std::log1p(-random_uniform(seed_, bench_serve::kArrivalStream, index_));
    ++index_;
    return to_time(rate_.time_of(requests_));
  }

 private:
  RateProfile rate_;
  uint64_t seed_;
  uint64_t index_ = 0;
  double requests_ = 0;  // that have come on average
};

class RandomSource : public RequestSource {
 public:
  RandomSource(const RandomRequests& shape, const SourceOptions& options)
      : shape_(shape), options_(options), arrivals_(options.rate.value(), options.seed) {
    CHORALE_CHECK(shape.requests || options.duration, "neither a number of requests nor a duration");
  }

  bool next(SimulatedRequest& request) override {
    if (shape_.requests && index_ >= *shape_.requests) return false;
    request.arrival = arrivals_.next();
    if (options_.duration && request.arrival > *options_.duration) return false;
    const bench_serve::RandomShape shape{.requests = 0,
                                         .prompt_tokens = shape_.prompt_tokens,
                                         .output_tokens = shape_.output_tokens,
                                         .range_ratio = shape_.range_ratio};
    const bench_serve::RequestLengths lengths = bench_serve::draw_lengths(shape, options_.seed, index_);
    request.output_tokens = lengths.output_tokens;
    request.prompt_ids.clear();
    append_tokens(random_bits(options_.seed, bench_serve::kFirstPromptStream, static_cast<uint64_t>(index_)),
                  lengths.prompt_tokens, options_.vocab_size, request.prompt_ids);
    ++index_;
    return true;
  }

 private:
  RandomRequests shape_;
  SourceOptions options_;
  Arrivals arrivals_;
  int64_t index_ = 0;
};

class TraceSource : public RequestSource {
 public:
  TraceSource(const std::vector<TraceRequest>& trace, const SourceOptions& options)
      : trace_(trace), options_(options) {
    if (options.rate) arrivals_.emplace(*options.rate, options.seed);
  }

  bool next(SimulatedRequest& request) override {
    if (index_ >= trace_.size()) return false;
    const TraceRequest& traced = trace_[index_];
    request.arrival = arrivals_ ? arrivals_->next() : traced.arrival;
    if (options_.duration && request.arrival > *options_.duration) return false;
    request.output_tokens = traced.output_tokens;
    fill(traced, request.prompt_ids);
    ++index_;
    return true;
  }

 private:
  void fill(const TraceRequest& traced, std::vector<int32_t>& ids) const {
    ids.clear();
    const auto key = [&](uint32_t stream, uint64_t index) {
      return random_bits(options_.seed, stream, index);
    };
    if (traced.hash_ids.empty())
      return append_tokens(key(bench_serve::kFirstPromptStream, index_), traced.input_tokens,
                           options_.vocab_size, ids);
    for (const int64_t id : traced.hash_ids) {
      const int64_t left = traced.input_tokens - std::ssize(ids);
      append_tokens(key(kTraceTokenStream, static_cast<uint64_t>(id)), std::min(left, kTraceBlockTokens),
                    options_.vocab_size, ids);
    }
  }

  const std::vector<TraceRequest>& trace_;
  SourceOptions options_;
  std::optional<Arrivals> arrivals_;
  size_t index_ = 0;
};

using Json = nlohmann::json;

int64_t whole_number(const Json& object, const char* name, const std::string& where) {
  const auto found = object.find(name);
  if (found == object.end() || !found->is_number_integer() || *found < 1 || *found > kMaxTokens)
    throw_error("{}: expected \"{}\" to be a whole number from 1 to {}, found {}", where, name, kMaxTokens,
                found == object.end() ? "nothing" : found->dump());
  return found->get<int64_t>();
}

std::vector<int64_t> hash_ids(const Json& object, int64_t input_tokens, const std::string& where) {
  const auto found = object.find("hash_ids");
  if (found == object.end()) return {};
  const int64_t blocks = ceil_div(input_tokens, kTraceBlockTokens);
  const auto is_id = [](const Json& id) { return id.is_number_integer(); };
  if (!found->is_array() || std::ssize(*found) != blocks || !std::all_of(found->begin(), found->end(), is_id))
    throw_error("{}: expected \"hash_ids\" to be {} whole numbers, one for each {} tokens of the prompt",
                where, blocks, kTraceBlockTokens);
  return found->get<std::vector<int64_t>>();
}

TraceRequest parse_line(std::string_view line, const std::string& where) {
  const Json object = Json::parse(line, nullptr, false);
  if (!object.is_object()) throw_error("{}: expected a JSON object", where);
  const auto timestamp = object.find("timestamp");
  const bool is_time = timestamp != object.end() && timestamp->is_number() && *timestamp >= 0 &&
                       *timestamp <= kMaxSeconds * 1e3;
  if (!is_time)
    throw_error("{}: expected \"timestamp\" to be milliseconds, found {}", where,
                timestamp == object.end() ? "nothing" : timestamp->dump());
  TraceRequest request;
  request.arrival = to_time(timestamp->get<double>() / 1e3);
  request.input_tokens = whole_number(object, "input_length", where);
  request.output_tokens = whole_number(object, "output_length", where);
  request.hash_ids = hash_ids(object, request.input_tokens, where);
  return request;
}

}  // namespace

RandomRequests parse_random_requests(std::string_view text) {
  constexpr std::string_view kRandom = "random:";
  std::string_view rest = text.substr(text.starts_with(kRandom) ? kRandom.size() : text.size());
  RandomRequests shape;
  auto first = take_number(rest, kMaxRequests);
  if (first && take(rest, 'x')) {
    shape.requests = first;
    first = take_number(rest, kMaxTokens);
  }
  const bool is_sum = first && *first <= kMaxTokens && take(rest, '+');
  const auto output = is_sum ? take_number(rest, kMaxTokens) : std::nullopt;
  if (!output || !rest.empty())
    throw_error(
        "--workload: expected random:REQUESTSxPROMPT+NEW or random:PROMPT+NEW, such as random:1000x512+128, "
        "found \"{}\"",
        text);
  shape.prompt_tokens = *first;
  shape.output_tokens = *output;
  return shape;
}

std::vector<TraceRequest> parse_trace(std::string_view text, std::string_view source) {
  std::vector<TraceRequest> trace;
  for (int64_t number = 1; !text.empty(); ++number) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    trace.push_back(parse_line(line, fmt::format("{}, line {}", source, number)));
  }
  if (trace.empty()) throw_error("{}: it has no requests", source);
  std::stable_sort(trace.begin(), trace.end(),
                   [](const TraceRequest& a, const TraceRequest& b) { return a.arrival < b.arrival; });
  const Time first = trace.front().arrival;
  for (TraceRequest& request : trace) request.arrival -= first;
  return trace;
}

std::unique_ptr<RequestSource> random_source(const RandomRequests& shape, const SourceOptions& options) {
  return std::make_unique<RandomSource>(shape, options);
}

std::unique_ptr<RequestSource> trace_source(const std::vector<TraceRequest>& trace,
                                            const SourceOptions& options) {
  return std::make_unique<TraceSource>(trace, options);
}

}  // namespace chorale::simulate
