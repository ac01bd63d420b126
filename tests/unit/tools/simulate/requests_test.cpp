#include "tools/simulate/requests.h"

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "tools/bench_serve/arrivals.h"

namespace chorale::simulate {
namespace {

using testing::HasSubstr;

constexpr int64_t kVocab = 100;

std::string error_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::vector<SimulatedRequest> all_of(RequestSource& source) {
  std::vector<SimulatedRequest> requests;
  for (SimulatedRequest request; source.next(request);) requests.push_back(request);
  return requests;
}

SourceOptions at_rate(const char* rate, uint64_t seed = 3) {
  return {.vocab_size = kVocab, .seed = seed, .rate = RateProfile::parse(rate), .duration = std::nullopt};
}

TEST(SimulatedRequests, ReadTheirShape) {
  EXPECT_EQ(parse_random_requests("random:64x128+32"),
            (RandomRequests{.requests = 64, .prompt_tokens = 128, .output_tokens = 32}));
  EXPECT_EQ(parse_random_requests("random:128+32"),
            (RandomRequests{.requests = std::nullopt, .prompt_tokens = 128, .output_tokens = 32}));
  for (const char* text : {"", "random:", "random:0x1+1", "random:1x1", "random:1x+1", "random:1x1+1x",
                           "1x1+1", "random:1x2x3+4", "random:9999999+1"})
    EXPECT_THAT(error_of([&] { parse_random_requests(text); }), HasSubstr("--workload: expected")) << text;
}

TEST(SimulatedRequests, AreThoseOfBenchServe) {
  const RandomRequests shape{.requests = 50, .prompt_tokens = 40, .output_tokens = 9, .range_ratio = 0.25};
  const auto requests = all_of(*random_source(shape, at_rate("20")));
  const auto expected = bench_serve::random_id_requests(
      {.requests = 50, .prompt_tokens = 40, .output_tokens = 9, .range_ratio = 0.25}, kVocab, 3);
  const std::vector<double> arrivals = bench_serve::arrival_times(50, 20, 3);
  ASSERT_EQ(requests.size(), expected.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(std::ssize(requests[i].prompt_ids), expected[i].prompt_tokens);
    EXPECT_EQ(requests[i].output_tokens, expected[i].output_tokens);
    EXPECT_NEAR(static_cast<double>(requests[i].arrival.count()), arrivals[i] * 1e9, 1);
    for (const int32_t id : requests[i].prompt_ids) EXPECT_TRUE(id >= 0 && id < kVocab);
  }
  EXPECT_NE(requests[0].prompt_ids[0] * kVocab + requests[0].prompt_ids[1],
            requests[1].prompt_ids[0] * kVocab + requests[1].prompt_ids[1]);
}

TEST(SimulatedRequests, AreAFunctionOfTheSeed) {
  const RandomRequests shape{.requests = 5, .prompt_tokens = 40, .output_tokens = 9, .range_ratio = 0.25};
  const auto ids = [&](uint64_t seed) {
    std::vector<int32_t> all;
    for (const auto& request : all_of(*random_source(shape, at_rate("20", seed))))
      all.insert(all.end(), request.prompt_ids.begin(), request.prompt_ids.end());
    return all;
  };
  EXPECT_EQ(ids(1), ids(1));
  EXPECT_NE(ids(1), ids(2));
}

TEST(SimulatedRequests, EndWithTheTime) {
  const RandomRequests shape{.prompt_tokens = 4, .output_tokens = 1, .range_ratio = 1};
  SourceOptions options = at_rate("day:0..2");
  options.duration = std::chrono::hours(24);
  const auto requests = all_of(*random_source(shape, options));
  EXPECT_NEAR(static_cast<double>(requests.size()), 86400, 5 * std::sqrt(86400.0));
  EXPECT_LE(requests.back().arrival, std::chrono::hours(24));
}

TEST(SimulatedRequests, ATraceIsReadInOrderOfTime) {
  const auto trace = parse_trace(
      R"({"timestamp": 5000, "input_length": 3, "output_length": 2}

{"timestamp": 1000.5, "input_length": 600, "output_length": 1, "hash_ids": [7, 8]}
)",
      "FILE");
  ASSERT_EQ(trace.size(), 2U);
  EXPECT_EQ(trace[0],
            (TraceRequest{.arrival = Time(0), .input_tokens = 600, .output_tokens = 1, .hash_ids = {7, 8}}));
  EXPECT_EQ(trace[1], (TraceRequest{.arrival = std::chrono::microseconds(3'999'500),
                                    .input_tokens = 3,
                                    .output_tokens = 2,
                                    .hash_ids = {}}));
}

// Where the ids are the same, so are the tokens, and nowhere else.
TEST(SimulatedRequests, ATraceSharesPrefixes) {
  const auto request = [](int64_t tokens, std::vector<int64_t> ids) {
    return TraceRequest{
        .arrival = Time(0), .input_tokens = tokens, .output_tokens = 1, .hash_ids = std::move(ids)};
  };
  const std::vector<TraceRequest> trace = {request(1024, {1, 2}), request(700, {1, 3}), request(600, {}),
                                           request(600, {})};
  SourceOptions options = at_rate("inf");
  options.rate = std::nullopt;
  options.vocab_size = 1 << 30;
  const auto requests = all_of(*trace_source(trace, options));
  ASSERT_EQ(requests.size(), 4U);
  const auto shared = [&](size_t a, size_t b) {
    const auto& x = requests[a].prompt_ids;
    const auto& y = requests[b].prompt_ids;
    return std::mismatch(x.begin(), x.end(), y.begin(), y.end()).first - x.begin();
  };
  EXPECT_EQ(std::ssize(requests[1].prompt_ids), 700);
  EXPECT_EQ(shared(0, 1), kTraceBlockTokens);
  EXPECT_EQ(shared(0, 2), 0);
  EXPECT_EQ(shared(2, 3), 0);
}

TEST(SimulatedRequests, ATraceTellsWhatIsWrong) {
  const auto error = [](const char* text) { return error_of([&] { parse_trace(text, "--trace FILE"); }); };
  EXPECT_THAT(error(""), HasSubstr("--trace FILE: it has no requests"));
  EXPECT_THAT(error("{}"), HasSubstr("--trace FILE, line 1: expected \"timestamp\" to be milliseconds"));
  EXPECT_THAT(error("[]"), HasSubstr("expected a JSON object"));
  EXPECT_THAT(error(R"({"timestamp": -1})"), HasSubstr("found -1"));
  EXPECT_THAT(error(R"({"timestamp": 0, "input_length": 0})"), HasSubstr("\"input_length\""));
  EXPECT_THAT(error(R"({"timestamp": 0, "input_length": 2})"), HasSubstr("\"output_length\""));
  EXPECT_THAT(error(R"({"timestamp": 0, "input_length": 2, "output_length": 1, "hash_ids": [1, 2]})"),
              HasSubstr("to be 1 whole numbers"));
  EXPECT_THAT(error(R"({"timestamp": 0, "input_length": 2, "output_length": 1, "hash_ids": ["a"]})"),
              HasSubstr("to be 1 whole numbers"));
}

}  // namespace
}  // namespace chorale::simulate
