// The answer to one HTTP request that generates text: runs its engine requests and tells the client, in the
// format of the endpoint, as a whole or as a stream.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "server/generation/answer_budget.h"
#include "server/generation/live_requests.h"
#include "server/generation/structured_output.h"
#include "server/generation/text_generation.h"
#include "server/generation/token_rules.h"
#include "server/http/exchange.h"
#include "server/metrics/metrics.h"
#include "server/wire/error_answer.h"
#include "server/wire/json_body.h"
#include "server/wire/json_parts.h"

namespace chorale::server {

// A validated engine request and how its tokens become text.
struct PlannedChoice {
  engine::GenerationRequest request;
  TextOptions text;
  int64_t prompt_index = 0;                           // choices with the same index share one prompt
  std::string public_id;                              // what the client knows the request by
  std::shared_ptr<const OutputFormat> output_format;  // that its text must have; nullptr: any
  std::shared_ptr<const TokenRules> rules;            // about its tokens; nullptr: none
  std::string prompt_text;                            // for formats that repeat the prompt
  // In the prompt's text, for formats that tell where each token's text starts.
  int64_t prompt_characters = 0;
  bool discard_output = false;  // the client asked for no token, the engine makes at least one
};

// One choice as far as it has come.
struct ChoiceState {
  int64_t index = 0;  // within the answer
  PlannedChoice plan;
  std::string text;
  std::vector<int32_t> token_ids;
  std::vector<engine::TokenLogprobs> logprobs;
  std::vector<int64_t> text_offsets;
  std::vector<engine::TokenLogprobs> prompt_logprobs;
  engine::FinishReason finish = engine::FinishReason::none;
  std::optional<int32_t> matched_stop_token;
  std::optional<std::string> matched_stop_string;
  int64_t num_prompt_tokens = 0;
  int64_t num_completion_tokens = 0;
  int64_t num_cached_tokens = 0;
  double seconds = 0;     // from arrival to the latest event
  bool told_any = false;  // for streams: a piece was told before
};

// An endpoint's way of writing its answers.
class AnswerFormat {
 public:
  using Sink = std::function<void(const Json&)>;  // one message of the stream

  virtual ~AnswerFormat() = default;
  // The whole answer. Lists with an element for each token go to `lists`, whose elements may refer to the
  // choices and to this.
  virtual Json whole(const std::vector<ChoiceState>& choices, LongLists& lists) const = 0;
  // Messages of a stream: after each piece (which the choice includes already), and at the end. There is none
  // before the first token, which clients take the first message for. What a format must remember of a choice
  // from piece to piece it keeps itself.
  virtual void piece(const ChoiceState& choice, const TextPiece& piece, const Sink& sink) = 0;
  virtual void close(const std::vector<ChoiceState>& choices, const Sink& sink) const = 0;
  // The reason that whole() or piece() will tell for the choice, of which `last` is the last piece; for
  // /metrics.
  virtual const char* finish_reason(const ChoiceState& before, const TextPiece& last) const;
  // Whether messages of a stream are events with the name that their "type" gives, and nothing follows the
  // last; else they have no names, and [DONE] follows.
  virtual bool has_typed_events() const { return false; }
  virtual ErrorForm error_form() const { return ErrorForm::openai; }
  // The last message of a stream that breaks off.
  virtual Json stream_error(const ErrorAnswer& error) { return error_json(error, error_form()); }
  // Whether each message of a choice contains all before it, so that a slow client may be spared some of
  // them.
  virtual bool cumulative() const { return false; }
};

// What one HTTP request asks for, validated and tokenized.
struct AnswerPlan {
  std::vector<PlannedChoice> choices;
  std::unique_ptr<AnswerFormat> format;
  bool stream = false;
  std::string holder;  // as RequestContext::holder
  // When the HTTP request came.
  std::chrono::steady_clock::time_point arrival = std::chrono::steady_clock::now();
};

// What answers need from their server; outlives them.
struct AnswerServices {
  engine::Engine& engine;
  const text::Tokenizer& tokenizer;
  Metrics& metrics;
  LiveRequests& live;
  AnswerBudget& budget;
  bool log_requests = false;  // one line for each request that ends, at level info; else at level debug
};

// All functions run on the exchange's strand.
class Answer : public std::enable_shared_from_this<Answer> {
 public:
  // Hands the requests to the engine, and returns: the answer goes to the exchange as it comes. Throws
  // BadRequest, with nothing left in the engine, when the engine refuses one of them.
  static void start(const AnswerServices& services, AnswerPlan plan, std::shared_ptr<Exchange> exchange);

 private:
  using Clock = std::chrono::steady_clock;
  struct Running {
    ChoiceState state;
    TextGeneration generation;
    Clock::time_point last_token;
    Clock::time_point first_token;
    double queue_seconds = 0;  // in the engine
  };

  // What the engine has of a choice. The ticket comes first, to end last: once it has, the server may be
  // destroyed, and with it what the exchange needs.
  struct Listener {
    std::shared_ptr<LiveRequests::Ticket> ticket;
    std::shared_ptr<Answer> answer;
    size_t choice;

    void operator()(engine::GenerationEvent event) const;
  };

  Answer(const AnswerServices& services, AnswerPlan plan, std::shared_ptr<Exchange> exchange);
  void submit();
  // Takes the room that the requests need from the beginning.
  void take_room();
  // is_cancelled: a client has asked for the end of the request.
  void on_event(size_t choice, engine::GenerationEvent event, Clock::time_point time, bool is_cancelled);
  void observe(Running& running, const TextPiece& piece, Clock::time_point time);
  void observe_end(const Running& running, const TextPiece& piece, Clock::time_point time);
  // Counts a request that did not come to an end by itself: "abort" or "error".
  void end_early(const Running& running, const char* reason);
  void log_end(const Running& running, int64_t num_tokens, const char* reason) const;
  double since_arrival(Clock::time_point time) const;
  void tell(Running& running, TextPiece piece);
  void finish();
  void respond_whole();
  void fail(const RequestError& error);
  // Ends what still runs; the answer has no use for it.
  void abort_all();
  AnswerFormat::Sink sink() const;
  void send(const Json& message) const;
  void end_stream();

  AnswerServices services_;
  std::unique_ptr<AnswerFormat> format_;
  bool stream_;
  std::shared_ptr<Exchange> exchange_;
  std::vector<Running> running_;
  size_t num_unfinished_;
  std::string holder_;
  Clock::time_point arrival_;
  Clock::time_point submitted_;
  AnswerBudget::Share room_;
  bool over_ = false;
};

// "stop", "length", "abort" or "error".
const char* finish_name(engine::FinishReason finish);

}  // namespace chorale::server
