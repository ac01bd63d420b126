#include "tools/bench_serve/metrics.h"

#include <cmath>
#include <limits>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tools/bench_serve/histogram.h"
#include "tools/bench_serve/report.h"

namespace chorale::bench_serve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// Of numpy: a = [3, 1, 4, 1, 5, 9, 2, 6]; np.percentile(a, p), np.std(a).
TEST(Statistics, AreThoseOfNumpy) {
  const Statistics s = *statistics({3, 1, 4, 1, 5, 9, 2, 6});
  EXPECT_DOUBLE_EQ(s.mean, 3.875);
  EXPECT_DOUBLE_EQ(s.standard_deviation, 2.5708704751503917);
  EXPECT_DOUBLE_EQ(s.median, 3.5);
  EXPECT_DOUBLE_EQ(s.p90, 6.9);
  EXPECT_DOUBLE_EQ(s.p95, 7.95);
  EXPECT_DOUBLE_EQ(s.p99, 8.79);
  EXPECT_DOUBLE_EQ(s.max, 9);
}

TEST(Statistics, OfOneValueAndOfNone) {
  const Statistics s = *statistics({7});
  EXPECT_EQ(s.mean, 7);
  EXPECT_EQ(s.standard_deviation, 0);
  EXPECT_EQ(s.p99, 7);
  EXPECT_FALSE(statistics({}));
}

RequestRecord record(double latency, double first, std::vector<double> between, int64_t output) {
  RequestRecord r;
  r.latency = latency;
  r.first_token = first;
  r.between = std::move(between);
  r.prompt_tokens = 10;
  r.output_tokens = output;
  return r;
}

LoadResult load() {
  LoadResult l;
  l.records = {record(1.0, 0.25, {0.25, 0.5}, 4), record(0.5, 0.5, {}, 1), record(0, 0, {}, 0), {}};
  l.records[2].error = "broken";
  l.records[2].prompt_tokens = 500;
  l.records[3].latency = 0.5;  // succeeded without any text
  l.duration = 2;
  l.peak_concurrency = 3;
  return l;
}

TEST(ComputeMetrics, CountsWhatSucceeded) {
  const Metrics m = compute_metrics(load());
  EXPECT_EQ(m.completed, 3);
  EXPECT_EQ(m.failed, 1);
  EXPECT_EQ(m.without_text, 1);
  EXPECT_EQ(m.input_tokens, 20);
  EXPECT_EQ(m.output_tokens, 5);
  EXPECT_EQ(m.request_throughput, 1.5);
  EXPECT_EQ(m.input_throughput, 10);
  EXPECT_EQ(m.output_throughput, 2.5);
  EXPECT_EQ(m.total_throughput, 12.5);
  EXPECT_EQ(m.concurrency, 1);
  EXPECT_EQ(m.peak_concurrency, 3);
}

TEST(ComputeMetrics, TakesTimesAsSglangDoes) {
  const Samples s = compute_metrics(load()).samples;
  EXPECT_THAT(s.e2e, ElementsAre(1000, 500, 500));
  EXPECT_THAT(s.ttft, ElementsAre(250, 500));
  EXPECT_THAT(s.tpot, ElementsAre(250));  // (1000 - 250) / (4 - 1); one token has no other
  EXPECT_THAT(s.itl, ElementsAre(250, 500));
}

TEST(ComputeMetrics, OfNothing) {
  const Metrics m = compute_metrics({});
  EXPECT_EQ(m.completed, 0);
  EXPECT_EQ(m.request_throughput, 0);
  EXPECT_FALSE(m.ttft);
}

TEST(FirstErrors, AreCountedInOrder) {
  std::vector<RequestRecord> records(6);
  const char* errors[] = {"", "b", "a", "b", "c", "c"};
  for (size_t i = 0; i < records.size(); ++i) records[i].error = errors[i];
  const std::vector<CountedError> first = first_errors(records, 2);
  ASSERT_EQ(first.size(), 2u);
  EXPECT_EQ(first[0].message, "b");
  EXPECT_EQ(first[0].count, 2);
  EXPECT_EQ(first[1].message, "a");
}

TEST(MakeHistogram, CountsEveryValueOnce) {
  std::vector<double> values;
  for (int i = 0; i < 1000; ++i) values.push_back(std::sqrt(static_cast<double>(i)) / 7);
  values.push_back(1000);
  const Histogram h = make_histogram(values, 20);
  EXPECT_EQ(std::accumulate(h.counts.begin(), h.counts.end(), int64_t{0}), 1001);
  EXPECT_LE(h.counts.size(), 22u);
  EXPECT_TRUE(h.has_tail);
  EXPECT_LE(h.lowest, values.front());
  for (size_t bin = 0; bin + 1 < h.counts.size(); ++bin) {
    const auto inside = [&](double v) { return v >= h.start(bin) - 1e-9 && v < h.start(bin + 1) - 1e-9; };
    EXPECT_EQ(h.counts[bin], std::count_if(values.begin(), values.end(), inside)) << bin;
  }
}

TEST(MakeHistogram, OfEqualValues) {
  const Histogram h = make_histogram({5, 5, 5}, 20);
  EXPECT_EQ(h.counts, (std::vector<int64_t>{3}));
  EXPECT_FALSE(h.has_tail);
}

Report report() {
  Report r;
  r.version = "9.8.7";
  r.date = "2030-01-02 03:04 UTC";
  r.machine = {"Some Processor", "Linux 6", 2, 24'000'000'000, "g++ 12.2"};
  r.server = "127.0.0.1:30000";
  r.model = "a <model> & co";
  r.endpoint = "completions";
  r.dataset = "random";
  r.workload = "4 prompts";
  r.requests = 4;
  r.request_rate = std::numeric_limits<double>::infinity();
  r.seed = 1;
  r.notes = {"A note."};
  r.metrics = compute_metrics(load());
  r.errors = {{"broken <b>", 1}};
  return r;
}

TEST(ReportText, IsTheFamiliarBlock) {
  EXPECT_EQ(report_text(report()),
            "============ Serving Benchmark Result ============\n"
            "Backend:                                 openai-completions\n"
            "Traffic request rate:                    inf\n"
            "Max request concurrency:                 not set\n"
            "Successful requests:                     3\n"
            "Failed requests:                         1\n"
            "Benchmark duration (s):                  2.00\n"
            "Total input tokens:                      20\n"
            "Total generated tokens:                  5\n"
            "Request throughput (req/s):              1.50\n"
            "Input token throughput (tok/s):          10.00\n"
            "Output token throughput (tok/s):         2.50\n"
            "Total token throughput (tok/s):          12.50\n"
            "Concurrency:                             1.00\n"
            "----------------End-to-End Latency----------------\n"
            "Mean E2E Latency (ms):                   666.67\n"
            "Median E2E Latency (ms):                 500.00\n"
            "P99 E2E Latency (ms):                    990.00\n"
            "---------------Time to First Token----------------\n"
            "Mean TTFT (ms):                          375.00\n"
            "Median TTFT (ms):                        375.00\n"
            "P99 TTFT (ms):                           497.50\n"
            "-----Time per Output Token (excl. 1st token)------\n"
            "Mean TPOT (ms):                          250.00\n"
            "Median TPOT (ms):                        250.00\n"
            "P99 TPOT (ms):                           250.00\n"
            "---------------Inter-Token Latency----------------\n"
            "Mean ITL (ms):                           375.00\n"
            "Median ITL (ms):                         375.00\n"
            "P99 ITL (ms):                            497.50\n"
            "==================================================\n"
            "A note.\n");
}

TEST(ReportJson, HasTheNumbersAndTheRequests) {
  const LoadResult l = load();
  const auto json = nlohmann::json::parse(report_json(report(), l.records, -1));
  EXPECT_EQ(json["completed"], 3);
  EXPECT_EQ(json["failed"], 1);
  EXPECT_EQ(json["request_rate"], nullptr);
  EXPECT_EQ(json["max_concurrency"], nullptr);
  EXPECT_EQ(json["mean_tpot_ms"], 250);
  EXPECT_EQ(json["p99_ttft_ms"], 497.5);
  EXPECT_EQ(json["errors"][0]["message"], "broken <b>");
  ASSERT_EQ(json["requests"].size(), 4u);
  EXPECT_EQ(json["requests"][0]["itl"], (std::vector<double>{0.25, 0.5}));
  EXPECT_EQ(json["requests"][2]["success"], false);
  EXPECT_EQ(json["requests"][3]["ttft"], nullptr);
  EXPECT_FALSE(nlohmann::json::parse(report_json(report(), {}, -1)).contains("requests"));
}

TEST(ReportJson, HasNullWhereThereAreNoValues) {
  Report r = report();
  r.metrics = {};
  const auto json = nlohmann::json::parse(report_json(r, {}, 2));
  for (const char* name : {"mean_e2e_latency_ms", "p99_ttft_ms", "median_tpot_ms", "max_itl_ms"}) {
    ASSERT_TRUE(json.contains(name));
    EXPECT_EQ(json[name], nullptr) << name;
  }
}

TEST(ReportHtml, EscapesAndDraws) {
  const std::string html = report_html(report());
  EXPECT_THAT(html, HasSubstr("a &lt;model&gt; &amp; co"));
  EXPECT_THAT(html, HasSubstr("1 failed: broken &lt;b&gt;"));
  EXPECT_THAT(html, HasSubstr("A note."));
  for (const char* title :
       {"Time to first token", "Time per output token", "Inter-token latency", "End-to-end latency"})
    EXPECT_THAT(html, HasSubstr(std::string("<figcaption><b>") + title));
  EXPECT_THAT(html, Not(HasSubstr("://")));
}

TEST(ReportHtml, OfNothing) {
  Report r = report();
  r.metrics = {};
  const std::string html = report_html(r);
  EXPECT_THAT(html, HasSubstr("No request succeeded."));
  EXPECT_THAT(html, Not(HasSubstr("<svg")));
}

}  // namespace
}  // namespace chorale::bench_serve
