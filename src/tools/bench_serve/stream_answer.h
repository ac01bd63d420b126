// What a streamed answer of OpenAI's completions or chat says, and when.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/bench_serve/http_client.h"
#include "tools/bench_serve/sse_parser.h"

namespace chorale::bench_serve {

enum class Endpoint { completions, chat };

// One request, from the moment when the client began to connect. All times in seconds.
struct RequestRecord {
  std::string error;                    // empty: it succeeded
  double start = 0;                     // since the start of the load
  double latency = 0;                   // until the last event of the stream
  std::optional<double> first_token;    // until the first event with text; none had any
  std::vector<double> between;          // from each event with text to the next
  std::optional<int64_t> usage_prompt;  // as the server counts
  std::optional<int64_t> usage_output;  // likewise
  std::string text;                     // the answer, where it is kept and usage_output is missing
  int64_t prompt_tokens = 0;            // settled by settle_counts()
  int64_t output_tokens = 0;            // likewise

  bool ok() const { return error.empty(); }
  // Events with text.
  int64_t num_events() const { return first_token ? std::ssize(between) + 1 : 0; }
};

// Reads one answer into a record. Not thread-safe.
class StreamAnswer {
 public:
  // keep_text: the text is needed to count tokens when the server does not.
  StreamAnswer(Endpoint endpoint, Clock::time_point sent, bool keep_text)
      : endpoint_(endpoint), keep_text_(keep_text), sent_(sent) {}

  void read(const BodyPart& part);
  // The record; to be called once, last.
  RequestRecord finish(const HttpEnd& end);

 private:
  void read_event(std::string_view data, Clock::time_point arrived);
  void add_text(const std::string& text, Clock::time_point arrived);
  void fail(std::string error);
  std::string why_incomplete(const HttpEnd& end) const;

  Endpoint endpoint_;
  bool keep_text_;
  Clock::time_point sent_;
  Clock::time_point last_text_;
  SseParser parser_;
  bool is_complete_ = false;  // the end was told: by [DONE] or a finish reason
  bool has_events_ = false;
  std::string refusal_;  // the body of an answer that is not a 200, as far as it is shown
  RequestRecord record_;
};

}  // namespace chorale::bench_serve
