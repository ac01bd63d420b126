#include <chrono>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tools/bench_serve/stream_answer.h"
#include "tools/bench_serve/token_counts.h"

namespace chorale::bench_serve {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// An answer that is read at times of the test's own.
class Answer {
 public:
  explicit Answer(Endpoint endpoint = Endpoint::completions, bool keep_text = false)
      : answer_(endpoint, sent_, keep_text) {}

  Answer& at(int ms, const std::string& bytes, int status = 200) {
    answer_.read({status, bytes, sent_ + milliseconds(ms)});
    return *this;
  }
  Answer& text(int ms, const std::string& text) {
    return at(ms, R"(data: {"choices":[{"index":0,"text":")" + text +
                      R"(","finish_reason":null}]})"
                      "\n\n");
  }
  RequestRecord end(int status = 200, std::string error = "") {
    return answer_.finish({status, std::move(error)});
  }

 private:
  Clock::time_point sent_ = Clock::now();
  StreamAnswer answer_;
};

constexpr const char* kDone = "data: [DONE]\n\n";
constexpr const char* kUsage =
    R"(data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":5,"total_tokens":16}})"
    "\n\n";

TEST(StreamAnswer, TimesEventsWithText) {
  const RequestRecord r = Answer()
                              .text(100, "")
                              .text(250, "a")
                              .text(300, "bc")
                              .text(310, "")
                              .text(500, "d")
                              .at(600, kUsage)
                              .at(700, kDone)
                              .end();
  EXPECT_EQ(r.error, "");
  EXPECT_DOUBLE_EQ(*r.first_token, 0.25);
  EXPECT_THAT(r.between, ElementsAre(testing::DoubleEq(0.05), testing::DoubleEq(0.2)));
  EXPECT_DOUBLE_EQ(r.latency, 0.7);
  EXPECT_EQ(r.num_events(), 3);
  EXPECT_EQ(r.usage_prompt, 11);
  EXPECT_EQ(r.usage_output, 5);
}

TEST(StreamAnswer, ReadsChatAndItsReasoning) {
  Answer answer(Endpoint::chat, true);
  answer.at(1, R"(data: {"choices":[{"delta":{"role":"assistant","content":""}}]})"
               "\n\n");
  answer.at(2, R"(data: {"choices":[{"delta":{"reasoning_content":"hm"}}],"usage":null})"
               "\n\n");
  answer.at(3, R"(data: {"choices":[{"delta":{"content":"yes"},"finish_reason":"stop"}]})"
               "\n\n");
  const RequestRecord r = answer.end();
  EXPECT_EQ(r.error, "");
  EXPECT_EQ(r.num_events(), 2);
  EXPECT_DOUBLE_EQ(*r.first_token, 0.002);
  EXPECT_EQ(r.text, "hmyes");
  EXPECT_FALSE(r.usage_output);
}

TEST(StreamAnswer, NeedsNoDoneAfterAFinishReasonNorACleanEndAfterDone) {
  EXPECT_EQ(Answer()
                .at(1, R"(data: {"choices":[{"text":"x","finish_reason":"length"}]})"
                       "\n\n")
                .end()
                .error,
            "");
  EXPECT_EQ(Answer().text(1, "x").at(2, kDone).end(200, "connection reset").error, "");
}

TEST(StreamAnswer, FailsWhenTheStreamIsCutOff) {
  EXPECT_THAT(Answer().text(1, "x").end().error, HasSubstr("without [DONE]"));
  EXPECT_EQ(Answer().text(1, "x").end(200, "connection reset").error, "connection reset");
  EXPECT_EQ(Answer().end(0, "connection refused").error, "connection refused");
  EXPECT_THAT(Answer().at(1, R"({"choices":[{"text":"whole"}]})").end().error, HasSubstr("no stream"));
}

TEST(StreamAnswer, FailsWithWhatTheServerSays) {
  EXPECT_EQ(Answer()
                .text(1, "x")
                .at(2, R"(data: {"error":{"message":"out of memory","code":500}})"
                       "\n\n")
                .at(3, kDone)
                .end()
                .error,
            "out of memory");
  EXPECT_EQ(Answer().at(1, R"({"error":{"message":"no such)", 404).at(2, R"( model"}})", 404).end(404).error,
            "HTTP 404: no such model");
  EXPECT_EQ(Answer().at(1, R"({"detail":"Not Found"})", 404).end(404).error, "HTTP 404: Not Found");
  EXPECT_EQ(Answer().at(1, "busy", 503).end(503).error, "HTTP 503: busy");
  EXPECT_EQ(Answer().end(502).error, "HTTP 502");
  EXPECT_THAT(Answer()
                  .at(1, R"(data: {"choices":[{"text":"","finish_reason":"abort"}]})"
                         "\n\n")
                  .end()
                  .error,
              HasSubstr("abort"));
  EXPECT_THAT(Answer().at(1, "data: nonsense\n\n").at(2, kDone).end().error, HasSubstr("nonsense"));
  EXPECT_LT(Answer().at(1, "data: " + std::string(5000, 'x') + "\n\n").end().error.size(), 400u);
}

TEST(StreamAnswer, SurvivesMembersOfOtherTypes) {
  for (const char* event :
       {"[]", "7", R"({"choices":7})", R"({"choices":[7]})", R"({"choices":[{"text":7}]})",
        R"({"choices":[{"text":null,"finish_reason":7}],"usage":"x"})",
        R"({"usage":{"completion_tokens":"five"}})"}) {
    const RequestRecord r = Answer().at(1, std::string("data: ") + event + "\n\n").end();
    EXPECT_NE(r.error, "") << event;
    EXPECT_EQ(r.num_events(), 0);
    EXPECT_FALSE(r.usage_output);
  }
}

RequestRecord record(std::optional<int64_t> prompt, std::optional<int64_t> output, size_t events) {
  RequestRecord r;
  r.usage_prompt = prompt;
  r.usage_output = output;
  if (events > 0) {
    r.first_token = 1;
    r.between.assign(events - 1, 0.1);
  }
  return r;
}

TEST(SettleCounts, TakesWhatTheServerTells) {
  std::vector<RequestRecord> records = {record(11, 5, 3)};
  const std::vector<Request> requests = {{.prompt = "x", .prompt_tokens = 99, .output_tokens = 9}};
  EXPECT_THAT(settle_counts(records, requests, nullptr), IsEmpty());
  EXPECT_EQ(records[0].prompt_tokens, 11);
  EXPECT_EQ(records[0].output_tokens, 5);
}

TEST(SettleCounts, SaysWhatStandsInForIt) {
  std::vector<RequestRecord> records = {record({}, {}, 3), record({}, 4, 3), record({}, {}, 0)};
  records[2].error = "failed";
  const std::vector<Request> requests = {{.prompt = "x", .prompt_tokens = 99, .output_tokens = 9},
                                         {.prompt = "y", .prompt_tokens = {}, .output_tokens = 9},
                                         {.prompt = "z", .prompt_tokens = 99, .output_tokens = 9}};
  EXPECT_THAT(settle_counts(records, requests, nullptr),
              ElementsAre(HasSubstr("no prompt tokens for 1 requests: theirs are as sent"),
                          HasSubstr("no prompt tokens for 1 requests, and without --tokenizer"),
                          HasSubstr("no output tokens for 1 requests: each event")));
  EXPECT_EQ(records[0].prompt_tokens, 99);
  EXPECT_EQ(records[0].output_tokens, 3);
  EXPECT_EQ(records[1].prompt_tokens, 0);
  EXPECT_EQ(records[1].output_tokens, 4);
  EXPECT_EQ(records[2].prompt_tokens, 0);
}

}  // namespace
}  // namespace chorale::bench_serve
