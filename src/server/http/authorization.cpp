#include "server/http/authorization.h"

#include <set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/constant_time.h"
#include "base/sha256.h"

namespace chorale::server {
namespace {

// Whether one of the keys has one of the digests. The time it takes does not tell which.
bool is_among(const std::vector<std::string>& keys, const std::vector<std::string>& digests) {
  bool known = false;
  for (const std::string& key : keys) {
    const std::string digest = sha256_hex(key);
    for (const std::string& expected : digests) {
      const bool equal = equal_in_constant_time(digest, expected);
      known = equal || known;
    }
  }
  return known;
}

}  // namespace

std::string key_holder(const std::vector<std::string>& keys) {
  if (keys.empty()) return "";
  const std::set<std::string> distinct(keys.begin(), keys.end());
  return sha256_hex(fmt::format("{}", fmt::join(distinct, "\n")));
}

Authorization::Authorization(const std::vector<std::string>& keys, const std::vector<std::string>& admin_keys,
                             std::function<bool(std::string_view path)> is_admin_door)
    : is_admin_door_(std::move(is_admin_door)) {
  for (const std::string& key : keys) digests_.push_back(sha256_hex(key));
  for (const std::string& key : admin_keys) admin_digests_.push_back(sha256_hex(key));
}

std::optional<HttpRefusal> Authorization::check(const HttpRequest& request) const {
  if (is_open(request.path)) return std::nullopt;
  const bool is_admin_door = !admin_digests_.empty() && is_admin_door_ && is_admin_door_(request.path);
  if (digests_.empty() && !is_admin_door) return std::nullopt;
  const bool is_admin = is_among(request.keys, admin_digests_);
  const bool is_client = is_among(request.keys, digests_);
  if (is_admin || (is_client && !is_admin_door)) return std::nullopt;
  if (is_client) {
    return HttpRefusal{.status = 403, .message = "this takes an administrator's key (--admin-api-key)"};
  }
  const char* what = is_admin_door ? "this needs an administrator's API key" : "this server needs an API key";
  return HttpRefusal{.status = 401,
                     .message = request.keys.empty()
                                    ? fmt::format("{}: Authorization: Bearer KEY, or x-api-key: KEY", what)
                                    : std::string("the API key is not one of this server's"),
                     .headers = {{"WWW-Authenticate", "Bearer"}}};
}

bool Authorization::is_probe(std::string_view path) {
  return path == "/health" || path == "/ping" || path == "/metrics";
}

bool Authorization::is_open(std::string_view path) {
  return path == "/" || is_probe(path);
}

}  // namespace chorale::server
