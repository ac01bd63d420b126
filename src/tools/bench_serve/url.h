// The address of a server, as clients of OpenAI's API write it.
#pragma once

#include <string>
#include <string_view>

namespace chorale::bench_serve {

struct Url {
  std::string host;    // a name, an IPv4 or an IPv6 address, the latter without brackets
  std::string port;    // "1" to "65535"
  std::string prefix;  // before every path: empty, or "/a/b"

  // "host:port/a/b", IPv6 addresses in brackets.
  std::string text() const;
  // For the header Host: "host:port".
  std::string authority() const;
  bool operator==(const Url&) const = default;
};

// "http://HOST[:PORT][/PREFIX]", where the scheme may be left out and the port is 80 unless given. A slash or
// "/v1" at the end is left away, since the endpoints' paths begin with it. Throws Error that names `flag`.
Url parse_url(std::string_view text, std::string_view flag);

}  // namespace chorale::bench_serve
