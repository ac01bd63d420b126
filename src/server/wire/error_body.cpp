#include "server/wire/error_body.h"

namespace chorale::server {
namespace {

constexpr size_t kMaxMessageBytes = 2000;

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

}  // namespace

Json error_json(const RequestError& error) {
  return {{"error",
           {{"message", cut_text(error.message, kMaxMessageBytes)},
            {"type", error_type(error.http_status)},
            {"param", error.param.empty() ? Json(nullptr) : Json(error.param)},
            {"code", error.http_status}}}};
}

HttpResponse error_response(const RequestError& error) {
  HttpResponse response;
  response.status = error.http_status;
  response.body = to_text(error_json(error));
  if (error.http_status == 503) response.headers.emplace_back("Retry-After", "1");
  return response;
}

}  // namespace chorale::server
