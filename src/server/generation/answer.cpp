#include "server/generation/answer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/log.h"
#include "server/wire/bad_request.h"
#include "server/wire/error_answer.h"

namespace chorale::server {
namespace {

using engine::FinishReason;

// Messages of a cumulative stream are left out where the client has this much to read already, and, since
// each costs as much as all its tokens, the rarer they get the longer the text is: from this many tokens on
// every second, and so on.
constexpr size_t kSkipFromBytes = 64U << 10;
constexpr size_t kSkipFromTokens = 1024;

// An answer up to that size has a Content-Length; what is longer is told in parts.
constexpr size_t kWholeBytes = 1U << 20;
constexpr size_t kPartBytes = 256U << 10;

// What is kept of a token of which logprobs are told.
constexpr uint64_t kTokenBytes = 16;
uint64_t logprob_bytes(size_t num_top) {
  return sizeof(engine::TokenLogprobs) + kTokenBytes + num_top * sizeof(std::pair<int32_t, float>);
}

template <typename T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

}  // namespace

const char* finish_name(FinishReason finish) {
  switch (finish) {
    case FinishReason::length:
      return "length";
    case FinishReason::aborted:
      return "abort";
    case FinishReason::error:
      return "error";
    default:
      return "stop";
  }
}

const char* AnswerFormat::finish_reason(const ChoiceState& /*before*/, const TextPiece& last) const {
  return finish_name(last.finish);
}

Answer::Answer(const AnswerServices& services, AnswerPlan plan, std::shared_ptr<Exchange> exchange)
    : services_(services),
      format_(std::move(plan.format)),
      stream_(plan.stream),
      exchange_(std::move(exchange)),
      num_unfinished_(plan.choices.size()),
      holder_(std::move(plan.holder)),
      arrival_(plan.arrival),
      submitted_(Clock::now()),
      room_(services.budget) {
  running_.reserve(plan.choices.size());
  for (PlannedChoice& choice : plan.choices) {
    TextGeneration generation(services.tokenizer, choice.text);
    ChoiceState state;
    state.index = static_cast<int64_t>(running_.size());
    state.num_prompt_tokens = static_cast<int64_t>(choice.request.prompt_ids.size());
    state.plan = std::move(choice);
    running_.push_back({std::move(state), std::move(generation), arrival_, arrival_});
  }
}

void Answer::start(const AnswerServices& services, AnswerPlan plan, std::shared_ptr<Exchange> exchange) {
  const std::shared_ptr<Answer> answer(new Answer(services, std::move(plan), std::move(exchange)));
  answer->submit();
  answer->exchange_->on_gone([weak = std::weak_ptr(answer)] {
    // Where the weak pointer has ended, so have all the requests.
    if (const auto self = weak.lock(); self && !self->over_) {
      self->over_ = true;
      self->abort_all();
    }
  });
  if (answer->over_ || !answer->stream_) return;
  answer->exchange_->begin_stream();
}

void Answer::take_room() {
  constexpr uint64_t kIdBytes = 3 * sizeof(int32_t);  // here, with the request, and with the sequence
  uint64_t bytes = 0;
  for (const Running& running : running_) {
    const engine::GenerationRequest& request = running.state.plan.request;
    const uint64_t tokens = request.prompt_ids.size();
    bytes += tokens * kIdBytes;
    if (request.prompt_logprobs_start < 0) continue;
    const uint64_t skipped = std::min(tokens, static_cast<uint64_t>(request.prompt_logprobs_start));
    bytes += (tokens - skipped) * logprob_bytes(static_cast<size_t>(std::max(request.num_top_logprobs, 0)));
  }
  if (room_.grow(bytes)) return;
  if (bytes > services_.budget.most()) {
    bad_request("", "this answer would take {} bytes of memory, and all answers together may have {}", bytes,
                services_.budget.most());
  }
  throw BadRequest(
      ErrorAnswer{.status = 503, .message = "the answers in work have as much memory as they may"});
}

void Answer::submit() {
  take_room();
  std::vector<engine::Submission> submissions;
  for (size_t i = 0; i < running_.size(); ++i) {
    const PlannedChoice& plan = running_[i].state.plan;
    const engine::GenerationRequest& request = plan.request;
    auto ticket = std::make_shared<LiveRequests::Ticket>(services_.live, request.id, plan.public_id, holder_);
    submissions.push_back({request, Listener{std::move(ticket), shared_from_this(), i}});
  }
  if (auto error = services_.engine.submit(std::move(submissions))) throw BadRequest(std::move(*error));
}

// The engine's thread only passes the event on; text is made on the connection's strand.
void Answer::Listener::operator()(engine::GenerationEvent event) const {
  auto shared = std::make_shared<engine::GenerationEvent>(std::move(event));
  const bool cancelled = shared->finish == FinishReason::aborted && ticket->is_cancelled();
  answer->exchange_->post([answer = answer, choice = choice, shared, time = Clock::now(), cancelled] {
    answer->on_event(choice, std::move(*shared), time, cancelled);
  });
}

void Answer::on_event(size_t choice, engine::GenerationEvent event, Clock::time_point time,
                      bool is_cancelled) {
  Running& running = running_[choice];
  if (over_ || running.generation.finished()) return;
  running.queue_seconds = event.queue_seconds;
  running.state.num_cached_tokens = event.num_cached_tokens;
  if (event.finish == FinishReason::error) {
    end_early(running, "error");
    running.generation.consume({.finish = FinishReason::error});
    return fail(event.error.value_or(
        RequestError{.kind = RequestError::Kind::failed, .message = "the request failed"}));
  }
  if (event.finish == FinishReason::aborted && !is_cancelled)
    return fail({.kind = RequestError::Kind::unavailable,
                 .message = "the server ended this request: it is stopping"});

  TextPiece piece = running.generation.consume(std::move(event));
  uint64_t bytes = piece.text.size() + piece.token_ids.size() * kTokenBytes;
  for (const engine::TokenLogprobs& logprobs : piece.logprobs) bytes += logprob_bytes(logprobs.top.size());
  if (!room_.grow(bytes)) {
    return fail({.kind = RequestError::Kind::overloaded,
                 .message = "the answers in work have as much memory as they may"});
  }
  if (piece.abort_request) services_.engine.abort(running.state.plan.request.id);
  observe(running, piece, time);
  tell(running, std::move(piece));
  if (running.generation.finished() && --num_unfinished_ == 0) finish();
}

// Before the client is told, so that what it then asks of /metrics has its tokens.
void Answer::observe(Running& running, const TextPiece& piece, Clock::time_point time) {
  const size_t num_tokens = running.state.plan.discard_output ? 0 : piece.token_ids.size();
  if (num_tokens > 0) {
    const auto interval =
        std::chrono::duration<double>(time - running.last_token) / static_cast<double>(num_tokens);
    for (size_t i = 0; i < num_tokens; ++i) {
      if (i == 0 && running.state.token_ids.empty()) {
        services_.metrics.observe_first_token(since_arrival(time));
        running.first_token = time;
      } else {
        services_.metrics.observe_next_token(interval.count());
      }
    }
    running.last_token = time;
  }
  running.state.seconds = since_arrival(time);
  if (piece.finish == FinishReason::none) return;
  if (piece.finish == FinishReason::aborted) return end_early(running, "abort");
  observe_end(running, piece, time);
}

void Answer::observe_end(const Running& running, const TextPiece& piece, Clock::time_point time) {
  const ChoiceState& state = running.state;
  const bool tells_tokens = !state.plan.discard_output;
  const char* reason = tells_tokens ? format_->finish_reason(state, piece) : "length";
  const std::chrono::duration<double> prefill = running.first_token - submitted_;
  const std::chrono::duration<double> decode = time - running.first_token;
  const int64_t num_tokens = tells_tokens ? piece.num_completion_tokens : 0;
  services_.metrics.observe_finished(reason, {.seconds = state.seconds,
                                              .prompt_tokens = state.num_prompt_tokens,
                                              .generated_tokens = num_tokens,
                                              .prefill_seconds = prefill.count() - running.queue_seconds,
                                              .decode_seconds = decode.count()});
  log_end(running, num_tokens, reason);
}

void Answer::end_early(const Running& running, const char* reason) {
  services_.metrics.count_unfinished(reason);
  log_end(running, std::ssize(running.state.token_ids), reason);
}

void Answer::log_end(const Running& running, int64_t num_tokens, const char* reason) const {
  const log::Level level = services_.log_requests ? log::Level::info : log::Level::debug;
  if (!log::is_enabled(level)) return;
  const bool has_token = running.first_token != arrival_;
  const std::array<log::Field, 8> fields{
      {{"id", std::string_view(running.state.plan.request.id)},
       {"prompt_tokens", running.state.num_prompt_tokens},
       {"cached_tokens", running.state.num_cached_tokens},
       {"output_tokens", num_tokens},
       {"finish_reason", std::string_view(reason)},
       {"queue_seconds", running.queue_seconds},
       {"duration_seconds", since_arrival(Clock::now())},
       {"ttft_seconds", has_token ? since_arrival(running.first_token) : 0.0}}};
  log::write(level, "request ended", std::span(fields).first(has_token ? 8 : 7));
}

double Answer::since_arrival(Clock::time_point time) const {
  return std::chrono::duration<double>(time - arrival_).count();
}

void Answer::tell(Running& running, TextPiece piece) {
  ChoiceState& state = running.state;
  if (state.plan.discard_output) {
    TextPiece without_output;
    without_output.prompt_logprobs = std::move(piece.prompt_logprobs);
    without_output.num_cached_tokens = piece.num_cached_tokens;
    if (piece.finish != FinishReason::none) without_output.finish = FinishReason::length;
    piece = std::move(without_output);
  }
  state.text += piece.text;
  append(state.token_ids, piece.token_ids);
  append(state.logprobs, piece.logprobs);
  append(state.text_offsets, piece.text_offsets);
  append(state.prompt_logprobs, piece.prompt_logprobs);
  state.finish = piece.finish;
  state.matched_stop_token = piece.matched_stop_token;
  state.matched_stop_string = piece.matched_stop_string;
  state.num_completion_tokens = piece.num_completion_tokens;
  state.num_cached_tokens = piece.num_cached_tokens;
  if (!stream_) return;
  if (format_->cumulative() && piece.finish == FinishReason::none) {
    const size_t interval = 1 + state.token_ids.size() / kSkipFromTokens;
    if (exchange_->queued_bytes() > kSkipFromBytes || state.token_ids.size() % interval != 0) return;
  }
  format_->piece(state, piece, sink());
  state.told_any = true;
}

void Answer::finish() {
  over_ = true;
  if (!stream_) return respond_whole();
  std::vector<ChoiceState> states;
  for (Running& running : running_) states.push_back(std::move(running.state));
  format_->close(states, sink());
  end_stream();
}

void Answer::respond_whole() {
  const auto states = std::make_shared<std::vector<ChoiceState>>();
  for (Running& running : running_) states->push_back(std::move(running.state));
  LongLists lists;
  const Json document = format_->whole(*states, lists);
  const auto parts = std::make_shared<JsonParts>(document, std::move(lists));
  HttpResponse response;
  if (!parts->append(response.body, kWholeBytes)) return exchange_->respond(std::move(response));
  // This object has the format, and the room until all is told.
  std::string first = std::exchange(response.body, {});
  exchange_->respond_in_parts(std::move(response), [self = shared_from_this(), states, parts,
                                                    first = std::move(first)](std::string& out) mutable {
    if (first.empty()) return parts->append(out, kPartBytes);
    out = std::exchange(first, {});
    return true;
  });
}

void Answer::fail(const RequestError& error) {
  over_ = true;
  abort_all();
  if (stream_) {
    send(format_->stream_error(answer_to(error)));
    end_stream();
  } else {
    exchange_->respond(error_response(answer_to(error), format_->error_form()));
  }
}

void Answer::abort_all() {
  for (const Running& running : running_) {
    if (running.generation.finished()) continue;
    services_.engine.abort(running.state.plan.request.id);
    end_early(running, "abort");
  }
}

AnswerFormat::Sink Answer::sink() const {
  return [this](const Json& message) { send(message); };
}

void Answer::send(const Json& message) const {
  const std::string name = format_->has_typed_events() ? message["type"].get<std::string>() : "";
  exchange_->send_event(to_text(message), name);
}

void Answer::end_stream() {
  if (!format_->has_typed_events()) exchange_->send_event("[DONE]", "");
  exchange_->end_stream();
}

}  // namespace chorale::server
