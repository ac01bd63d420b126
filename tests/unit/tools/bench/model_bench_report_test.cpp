#include "tools/bench/model_bench_report.h"

#include <chrono>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace chorale::bench {
namespace {

using Json = nlohmann::json;

OpRecord op(const char* name, int begin, int end, OpWork work = {}) {
  const std::chrono::steady_clock::time_point start;
  return {name, start + std::chrono::milliseconds(begin), start + std::chrono::milliseconds(end), work};
}

ModelBenchReport report() {
  ModelBenchReport r;
  r.model = "m";
  r.dtype = "bfloat16";
  r.quantization = "none";
  r.instruction_set = "avx2";
  r.weight_bytes = 2'000'000'000;
  r.load_seconds = 4;
  StepResult prefill{.phase = "prefill", .sequences = 1, .tokens = 100};
  prefill.tokens_per_second = {50, 40, 60};
  prefill.floor = {1e9, 4e11};
  prefill.ceilings = {1e10, 4e11};
  prefill.fraction = 0.5;
  StepResult decode{.phase = "decode", .sequences = 4, .tokens = 4};
  decode.tokens_per_second = {8, 7, 9};
  decode.floor = {4e9, 1e10};
  decode.ceilings = {1e10, 4e11};
  decode.fraction = 0.8;
  decode.bound_by_memory = true;
  decode.ops = {op("matmul", 10, 30, {1e8, 0}), op("rms_norm", 30, 31), op("matmul", 32, 60, {1e8, 0})};
  r.results = {prefill, decode};
  return r;
}

TEST(BenchSpread, IsTheMiddleAndTheEnds) {
  EXPECT_EQ(spread_of({}).median, 0);
  const Spread odd = spread_of({3, 1, 2});
  EXPECT_EQ(odd.median, 2);
  EXPECT_EQ(odd.low, 1);
  EXPECT_EQ(odd.high, 3);
  EXPECT_EQ(spread_of({4, 1, 2, 3}).median, 2.5);
}

TEST(BenchReport, TheTableSaysWhatWasReachedOfWhichCeiling) {
  const std::string text = to_table(report(), TableForm::text);
  EXPECT_NE(text.find("weights 2.00 GB loaded in 4.0 s (0.50 GB/s)"), std::string::npos) << text;
  EXPECT_NE(text.find("prefill 100"), std::string::npos);
  EXPECT_NE(text.find("50%"), std::string::npos);
  const std::string markdown = to_table(report(), TableForm::markdown);
  EXPECT_NE(markdown.find("| decode, batch 4 | memory   |      8.0 |"), std::string::npos) << markdown;
}

TEST(BenchReport, JsonHasTheNumbersOfTheTable) {
  const Json json = Json::parse(to_json(report()));
  EXPECT_EQ(json["weight_bytes"], 2'000'000'000);
  const Json& decode = json["results"][1];
  EXPECT_EQ(decode["phase"], "decode");
  EXPECT_EQ(decode["tokens_per_second"]["median"], 8.0);
  EXPECT_EQ(decode["bound_by"], "memory");
  EXPECT_EQ(decode["fraction_of_ceiling"], 0.8);
  EXPECT_FALSE(json["results"][0].contains("profile"));
  const Json& first = decode["profile"][0];
  EXPECT_EQ(first["op"], "matmul");
  EXPECT_EQ(first["calls"], 2);
  EXPECT_NEAR(first["seconds"].get<double>(), 0.048, 1e-9);
  EXPECT_NEAR(first["fraction_of_ceiling"].get<double>(), 0.02 / 0.048, 1e-6);
}

TEST(BenchReport, TheProfileAddsUpToTheStep) {
  const std::string text = profile_tables(report(), TableForm::text);
  EXPECT_NE(text.find("decode, batch 4: 50.00 ms"), std::string::npos) << text;
  EXPECT_NE(text.find("48.000"), std::string::npos) << text;  // both matmuls
  EXPECT_NE(text.find("between ops"), std::string::npos);
  EXPECT_EQ(text.find("prefill"), std::string::npos) << "no profile was taken of it";
}

TEST(BenchReport, TheTraceHasEveryOpAtItsTime) {
  const Json trace = Json::parse(to_chrome_trace(report()));
  std::vector<Json> ops;
  for (const Json& event : trace["traceEvents"])
    if (event["ph"] == "X") ops.push_back(event);
  ASSERT_EQ(ops.size(), 3U);
  EXPECT_EQ(ops[0]["ts"], 0);
  EXPECT_NEAR(ops[2]["ts"].get<double>(), 22'000, 0.1);
  EXPECT_NEAR(ops[2]["dur"].get<double>(), 28'000, 0.1);
  EXPECT_EQ(ops[1]["name"], "rms_norm");
}

}  // namespace
}  // namespace chorale::bench
