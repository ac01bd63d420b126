#include "tools/compare/report.h"

#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tools/compare/report_html.h"
#include "tools/report/charts.h"

namespace chorale::tools {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

Measurement measurement(size_t ranks) {
  Measurement m;
  m.dtype = "bfloat16";
  m.instruction_set = "avx2";
  m.threads_per_rank = 1;
  m.seconds = 2;
  m.first_token = Distribution{0.5, 0.25, 1.5};
  m.between = Distribution{0.01, 0.008, 0.123};
  m.prompt_rate = 12345.6;
  m.output_rate = 678.9;
  m.prompt_tokens = 100;
  m.output_tokens = 50;
  m.computed_tokens = 140;
  m.stored_weights = 28'000'000;
  m.ranks.assign(ranks, {5'000'000, 1'000'000});
  m.ranks.back().weights = 6'000'000;
  m.sent_bytes.assign(ranks, {140'000, 280, 0, 1'400'000, 999});
  m.balance = Balance{1.25, 1.75, 3};
  return m;
}

CompareReport report() {
  CompareReport r;
  r.version = "9.8.7";
  r.date = "2030-01-02 03:04 UTC";
  r.machine = {"Some Processor", "Linux 6", 2, 24'000'000'000, "g++ 12.2"};
  r.model = "a-model";
  r.workload = "4 requests";
  r.requests = 4;
  r.outcomes.push_back({strategy_from_text("tp=1"), "", measurement(1), true, {}});
  r.outcomes.push_back({strategy_from_text("tp=2"), "", measurement(2), false, {}});
  return r;
}

Outcome failure(std::string error) {
  return {strategy_from_text("tp=3"), std::move(error), {}, false, {}};
}

TEST(Verdict, SaysHowItEnded) {
  CompareReport r = report();
  EXPECT_EQ(r.verdict(),
            "All 2 strategies that ran gave the same bits: 50 tokens with their log probabilities.");
  r.outcomes.push_back(failure("no"));
  EXPECT_THAT(r.verdict(), EndsWith("probabilities. 1 could not run."));
  r.outcomes[1].difference = "request 1: ...";
  EXPECT_EQ(r.verdict(), "1 of 2 strategies gave other bits than the first. 1 could not run.");
  r.outcomes.erase(r.outcomes.begin(), r.outcomes.begin() + 2);
  EXPECT_EQ(r.verdict(), "No strategy ran.");
}

TEST(ReportJson, HasEveryNumber) {
  CompareReport r = report();
  r.outcomes.push_back(failure("refused"));
  const auto json = nlohmann::json::parse(report_json(r, -1));
  EXPECT_EQ(json["version"], "9.8.7");
  EXPECT_EQ(json["machine"]["processor"], "Some Processor");
  EXPECT_EQ(json["identical"], true);
  EXPECT_EQ(json["dtype"], "bfloat16");
  const auto& two = json["strategies"][1];
  EXPECT_EQ(two["identical"], true);
  EXPECT_EQ(two["strategy"]["tp_size"], 2);
  EXPECT_EQ(two["strategy"]["world"], 2);
  EXPECT_EQ(two["error"], nullptr);
  EXPECT_EQ(two["time_to_first_token"]["median"], 0.25);
  EXPECT_EQ(two["inter_token_latency"]["p99"], 0.123);
  EXPECT_EQ(two["traffic"]["attention"]["bytes"], 280'000);
  EXPECT_EQ(two["traffic"]["attention"]["bytes_per_token"], 2000.0);
  EXPECT_EQ(two["traffic"]["dispatch"]["bytes_by_rank"], nlohmann::json({280, 280}));
  EXPECT_EQ(two["ranks"][1]["weight_bytes"], 6'000'000);
  EXPECT_EQ(two["expert_balance"]["worst_layer"], 3);
  const auto& failed = json["strategies"][2];
  EXPECT_EQ(failed["error"], "refused");
  EXPECT_EQ(failed["identical"], nullptr);
  EXPECT_FALSE(failed.contains("seconds"));
}

TEST(ReportJson, IsNotIdenticalWhereBitsDifferOrNothingRan) {
  CompareReport r = report();
  r.outcomes[1].difference = "request 1: token 2 is 3 instead of 4";
  auto json = nlohmann::json::parse(report_json(r, 2));
  EXPECT_EQ(json["identical"], false);
  EXPECT_EQ(json["strategies"][1]["identical"], false);
  EXPECT_EQ(json["strategies"][1]["difference"], "request 1: token 2 is 3 instead of 4");
  r.outcomes = {failure("no")};
  json = nlohmann::json::parse(report_json(r, 2));
  EXPECT_EQ(json["identical"], false);
  EXPECT_EQ(json["dtype"], nullptr);
}

TEST(ReportJson, SurvivesTextThatIsNotUtf8) {
  CompareReport r = report();
  r.model = "bad \xff name";
  EXPECT_EQ(nlohmann::json::parse(report_json(r, -1))["model"]["name"], "bad \uFFFD name");
}

TEST(Table, IsAlignedAndFits) {
  CompareReport r = report();
  r.outcomes.push_back(failure("the number of ranks cannot be " + std::string(200, 'x') +
                               " as everyone knows, " + "because there are not so many heads"));
  r.outcomes.push_back(
      {strategy_from_text("tp=32,dp=32,ep=16,moe_tp=8,moe_dp=8"), "", measurement(2), false, {}});
  std::istringstream lines(report_table(r));
  size_t row_width = 0;
  for (std::string line; std::getline(lines, line);) {
    EXPECT_LE(line.size(), kTableColumns) << line;
    if (line.starts_with("strategy ")) row_width = line.size();
    if (row_width > 0 &&
        (line.starts_with("tp=2") || line.starts_with("1 rank") || line.starts_with("     "))) {
      EXPECT_EQ(line.size(), row_width) << line;
    }
  }
  EXPECT_GT(row_width, 100U);
  EXPECT_THAT(report_table(r), HasSubstr("\ntp=32 dp=32 ep=16 moe_tp=8 moe_dp=8\n   "));
}

TEST(Table, ShowsErrorsAndDifferences) {
  CompareReport r = report();
  r.outcomes[1].difference = "request 1: token 2 is 3 instead of 4";
  r.outcomes.push_back(failure("--tp-size makes 3 ranks\nshare"));
  const std::string table = report_table(r);
  EXPECT_THAT(table, HasSubstr("tp=3 moe_tp=3  failed: --tp-size makes 3 ranks\\nshare\n"));
  EXPECT_THAT(table, HasSubstr("OTHER"));
  EXPECT_THAT(table, HasSubstr("  request 1: token 2 is 3 instead of 4\n"));
}

TEST(Table, OfFailuresAlone) {
  CompareReport r = report();
  r.outcomes = {failure("no"), failure("no")};
  EXPECT_THAT(report_table(r), AllOf(HasSubstr("failed: no\n"), EndsWith("No strategy ran.\n")));
}

TEST(HtmlEscape, LeavesNothingThatMeansSomething) {
  EXPECT_EQ(html_escape("a <b> & \"c\" 'd'"), "a &lt;b&gt; &amp; &quot;c&quot; &#39;d&#39;");
  EXPECT_EQ(html_escape(std::string("a\0b\x1f\n", 5)), "a\uFFFDb\uFFFD\n");
}

TEST(Html, TextFromOutsideIsText) {
  const std::string evil = "</title><script>alert(1)</script>\"'&";
  CompareReport r = report();
  r.model = evil;
  r.workload = evil;
  r.machine.processor = evil;
  r.config.architecture = evil;
  r.outcomes[1].strategy.name = evil;
  r.outcomes[1].difference = evil;
  r.outcomes.push_back(failure(evil));
  const std::string html = report_html(r);
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, HasSubstr("<h1>Parallel strategies on &lt;/title&gt;&lt;script&gt;alert(1)"));
}

TEST(Html, NeedsNothingFromElsewhere) {
  const std::string html = report_html(report());
  for (const char* outside : {"http:", "https:", "src=", "href=", "@import", "url("})
    EXPECT_THAT(html, Not(HasSubstr(outside))) << outside;
}

TEST(Html, StatesWhereItComesFromAndDrawsEveryChart) {
  CompareReport r = report();
  r.outcomes.push_back(failure("no heads"));
  const std::string html = report_html(r);
  for (const char* fact :
       {"a-model", "4 requests", "Some Processor", "2 cores", "24.00 GB", "Linux 6", "g++ 12.2",
        "Chorale 9.8.7", "2030-01-02 03:04 UTC", "bfloat16", "avx2", "failed: no heads"})
    EXPECT_THAT(html, HasSubstr(fact));
  for (const char* title : {"Throughput", "Time to first token", "Inter-token latency", "Data sent per token",
                            "Memory of a rank"})
    EXPECT_THAT(html, HasSubstr("<figcaption><b>" + std::string(title) + "</b>"));
}

TEST(Html, OfFailuresAloneHasNoCharts) {
  CompareReport r = report();
  r.outcomes = {failure("no")};
  EXPECT_THAT(report_html(r), AllOf(HasSubstr("No strategy ran."), Not(HasSubstr("<svg"))));
}

TEST(Charts, BarsAreAsLongAsTheirValues) {
  const std::string svg = draw({.title = "T",
                                .labels = {"a", "b"},
                                .series = {"s", "t"},
                                .values = {{10, 0}, {5, 2.5}},
                                .format = [](double v) { return std::to_string(static_cast<int>(v)); }});
  // 282 units stand for 10.
  for (const char* width : {"width=\"282.0\"", "width=\"0.0\"", "width=\"141.0\"", "width=\"70.5\""})
    EXPECT_THAT(svg, HasSubstr(width));
}

TEST(Charts, StackedBarsFollowEachOther) {
  const std::string svg = draw({.title = "T",
                                .labels = {"a"},
                                .series = {"s", "t"},
                                .values = {{6, 4}},
                                .stacked = true,
                                .format = [](double v) { return std::to_string(static_cast<int>(v)); }});
  EXPECT_THAT(svg, HasSubstr("class=\"s0\" x=\"216.0\" y=\"5.0\" width=\"169.2\""));
  EXPECT_THAT(svg, HasSubstr("class=\"s1\" x=\"385.2\" y=\"5.0\" width=\"112.8\""));
  EXPECT_THAT(svg, HasSubstr(">10</text>"));
}

TEST(Charts, StepsOfTheGridAreRound) {
  EXPECT_DOUBLE_EQ(nice_step(10, 5), 2);
  EXPECT_DOUBLE_EQ(nice_step(229, 5), 50);
  EXPECT_DOUBLE_EQ(nice_step(11739, 5), 2500);
  EXPECT_DOUBLE_EQ(nice_step(0.03, 5), 0.01);
  EXPECT_DOUBLE_EQ(nice_step(99, 5), 20);
  EXPECT_DOUBLE_EQ(nice_step(0, 5), 1);  // nothing to draw, but still an axis
}

}  // namespace
}  // namespace chorale::tools
