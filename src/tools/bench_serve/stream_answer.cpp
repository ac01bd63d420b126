#include "tools/bench_serve/stream_answer.h"

#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace chorale::bench_serve {
namespace {

using Json = nlohmann::json;

constexpr int kOk = 200;
constexpr size_t kMaxRefusalBytes = 65536;
constexpr size_t kMaxErrorBytes = 300;

const Json* find(const Json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  const auto value = object.find(name);
  return value != object.end() && !value->is_null() ? &*value : nullptr;
}

std::string text_of(const Json& object, const char* name) {
  const Json* value = find(object, name);
  return value != nullptr && value->is_string() ? value->get<std::string>() : "";
}

std::optional<int64_t> count_of(const Json& object, const char* name) {
  const Json* value = find(object, name);
  if (value == nullptr || !value->is_number_integer()) return std::nullopt;
  return value->get<int64_t>();
}

std::string shortened(std::string text) {
  if (text.size() <= kMaxErrorBytes) return text;
  return text.substr(0, kMaxErrorBytes) + "...";
}

// What a server says of an error: OpenAI's {"error": {"message": ...}}, or what others make of it.
std::string error_message(const Json& object) {
  const Json* error = find(object, "error");
  if (error == nullptr) error = find(object, "detail");
  const Json& told = error != nullptr ? *error : object;
  if (told.is_string()) return told.get<std::string>();
  const std::string message = text_of(told, "message");
  return message.empty() ? told.dump(-1, ' ', false, Json::error_handler_t::replace) : message;
}

// Reasoning counts as text: its tokens are made and paid for like all others.
std::string delta_text(const Json& choice, Endpoint endpoint) {
  if (endpoint == Endpoint::completions) return text_of(choice, "text");
  const Json* delta = find(choice, "delta");
  if (delta == nullptr) return "";
  return text_of(*delta, "reasoning_content") + text_of(*delta, "reasoning") + text_of(*delta, "content");
}

double seconds(Clock::duration duration) {
  return Seconds(duration).count();
}

}  // namespace

void StreamAnswer::read(const BodyPart& part) {
  if (part.status != kOk) {
    if (refusal_.size() < kMaxRefusalBytes) refusal_ += part.bytes;
    return;
  }
  const bool fits = parser_.push(part.bytes, [&](std::string_view data) { read_event(data, part.arrived); });
  if (!fits) fail("an event of the stream is too long");
}

void StreamAnswer::read_event(std::string_view data, Clock::time_point arrived) {
  has_events_ = true;
  record_.latency = seconds(arrived - sent_);
  if (data == "[DONE]") {
    is_complete_ = true;
    return;
  }
  const Json event = Json::parse(data, nullptr, false);
  if (!event.is_object()) return fail(fmt::format("an event is no JSON object: {}", data));
  if (find(event, "error") != nullptr) return fail(error_message(event));
  if (const Json* usage = find(event, "usage")) {
    record_.usage_prompt = count_of(*usage, "prompt_tokens");
    record_.usage_output = count_of(*usage, "completion_tokens");
  }
  const Json* choices = find(event, "choices");
  if (choices == nullptr || !choices->is_array() || choices->empty()) return;
  const Json& choice = choices->front();
  if (const std::string text = delta_text(choice, endpoint_); !text.empty()) add_text(text, arrived);
  const std::string reason = text_of(choice, "finish_reason");
  if (reason == "abort" || reason == "error")
    fail(fmt::format("the server ended it with finish_reason \"{}\"", reason));
  if (!reason.empty()) is_complete_ = true;
}

void StreamAnswer::add_text(const std::string& text, Clock::time_point arrived) {
  if (!record_.first_token) {
    record_.first_token = seconds(arrived - sent_);
  } else {
    record_.between.push_back(seconds(arrived - last_text_));
  }
  last_text_ = arrived;
  if (keep_text_) record_.text += text;
}

// The first error is the one that tells.
void StreamAnswer::fail(std::string error) {
  if (record_.error.empty()) record_.error = shortened(std::move(error));
}

std::string StreamAnswer::why_incomplete(const HttpEnd& end) const {
  if (end.status == 0) return end.error;
  if (end.status != kOk) {
    const Json body = Json::parse(refusal_, nullptr, false);
    const std::string message = body.is_object() ? error_message(body) : refusal_;
    return message.empty() ? fmt::format("HTTP {}", end.status)
                           : fmt::format("HTTP {}: {}", end.status, message);
  }
  if (is_complete_) return "";
  if (!end.error.empty()) return end.error;
  return has_events_ ? "the stream ended without [DONE] or a finish_reason"
                     : "the answer is no stream of events";
}

RequestRecord StreamAnswer::finish(const HttpEnd& end) {
  if (std::string why = why_incomplete(end); !why.empty()) fail(std::move(why));
  if (record_.usage_output) record_.text.clear();
  return std::move(record_);
}

}  // namespace chorale::bench_serve
