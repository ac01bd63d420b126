#include "server/http/framing.h"

#include <array>

#include <fmt/format.h>

namespace chorale::server {

std::string_view reason_phrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 409:
      return "Conflict";
    case 413:
      return "Content Too Large";
    case 414:
      return "URI Too Long";
    case 415:
      return "Unsupported Media Type";
    case 431:
      return "Request Header Fields Too Large";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    default:
      return status >= 500 ? "Internal Server Error" : "Error";
  }
}

// Not by strftime, which writes in the language of the process.
std::string http_date(std::chrono::system_clock::time_point time) {
  using std::chrono::days;
  constexpr std::array kWeekdays = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  constexpr std::array kMonths = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                  "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const auto day = std::chrono::floor<days>(time);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss clock(std::chrono::floor<std::chrono::seconds>(time - day));
  return fmt::format("{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
                     kWeekdays[std::chrono::weekday(day).c_encoding()], static_cast<unsigned>(date.day()),
                     kMonths[static_cast<unsigned>(date.month()) - 1], static_cast<int>(date.year()),
                     clock.hours().count(), clock.minutes().count(), clock.seconds().count());
}

std::string response_head(int status, std::string_view request_id) {
  return fmt::format(
      "HTTP/1.1 {0} {1}\r\nDate: {2}\r\nX-Request-Id: {3}\r\nRequest-Id: {3}\r\nX-Content-Type-Options: "
      "nosniff\r\n",
      status, reason_phrase(status), http_date(std::chrono::system_clock::now()), request_id);
}

std::string_view connection_line(bool keep_alive) {
  return keep_alive ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
}

std::string sse_frame(std::string_view payload, std::string_view name) {
  if (!name.empty()) return fmt::format("event: {}\ndata: {}\n\n", name, payload);
  return fmt::format("data: {}\n\n", payload);
}

std::string_view sse_ping() {
  return ": ping\n\n";
}

}  // namespace chorale::server
