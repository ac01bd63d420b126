#include "server/wire/error_answer.h"

#include <utility>

#include <fmt/format.h>

namespace chorale::server {
namespace {

constexpr size_t kMaxMessageBytes = 2000;

int status_of(RequestError::Kind kind) {
  switch (kind) {
    case RequestError::Kind::invalid:
    case RequestError::Kind::too_long:
      return 400;
    case RequestError::Kind::overloaded:
    case RequestError::Kind::unavailable:
      return 503;
    case RequestError::Kind::failed:
      return 500;
  }
  return 500;
}

const char* error_type(int status) {
  switch (status) {
    case 400:
      return "invalid_request_error";
    case 404:
      return "not_found_error";
    case 405:
      return "method_not_allowed";
    case 408:
      return "timeout_error";
    case 413:
      return "request_too_large";
    case 415:
      return "unsupported_media_type";
    case 503:
      return "service_unavailable_error";
    default:
      return status >= 500 ? "internal_server_error" : "invalid_request_error";
  }
}

const char* anthropic_type(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 408:
      return "timeout_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case 503:
      return "overloaded_error";
    default:
      return status >= 500 ? "api_error" : "invalid_request_error";
  }
}

// The words by which Anthropic's clients know that they have to shorten the conversation, or to ask for less:
// they read the numbers from them.
std::string anthropic_hint(const ErrorAnswer& error) {
  if (error.code != kContextLengthExceeded) return "";
  if (!error.overflow) return "prompt is too long: ";
  const auto [prompt, answer, context] = *error.overflow;
  if (answer == 0) return fmt::format("prompt is too long: {} tokens > {} maximum; ", prompt, context);
  return fmt::format("input length and `max_tokens` exceed context limit: {} + {} > {}; ", prompt, answer,
                     context);
}

Json anthropic_error(const ErrorAnswer& error) {
  return {{"type", "error"},
          {"error",
           {{"type", anthropic_type(error.status)},
            {"message", anthropic_hint(error) + cut_text(error.message, kMaxMessageBytes)}}}};
}

}  // namespace

ErrorForm error_form_of(std::string_view path) {
  const bool is_it = path == "/v1/messages" || path.starts_with("/v1/messages/");
  return is_it ? ErrorForm::anthropic : ErrorForm::openai;
}

ErrorAnswer answer_to(RequestError error) {
  return {.status = status_of(error.kind),
          .message = std::move(error.message),
          .param = std::move(error.param),
          .code = error.kind == RequestError::Kind::too_long ? kContextLengthExceeded : ""};
}

Json error_json(const ErrorAnswer& error, ErrorForm form) {
  if (form == ErrorForm::anthropic) return anthropic_error(error);
  return {{"error",
           {{"message", cut_text(error.message, kMaxMessageBytes)},
            {"type", error_type(error.status)},
            {"param", error.param.empty() ? Json(nullptr) : Json(error.param)},
            {"code", error.code.empty() ? Json(error.status) : Json(error.code)}}}};
}

HttpResponse error_response(const ErrorAnswer& error, ErrorForm form) {
  HttpResponse response;
  response.status = error.status;
  response.body = to_text(error_json(error, form));
  if (error.status == 503) response.headers.emplace_back("Retry-After", "1");
  return response;
}

}  // namespace chorale::server
