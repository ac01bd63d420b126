#include "server/path_hint.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "server/routes.h"

namespace chorale::server {
namespace {

// Ends of paths that other servers have, and what serves their purpose here.
constexpr auto kForeign = std::to_array<std::pair<std::string_view, std::string_view>>({
    {"/chat", "/v1/chat/completions"},
    {"/completion", "/v1/completions"},
    {"/engines", "/v1/models"},
    {"/tags", "/v1/models"},
    {"/props", "/get_server_info"},
    {"/healthz", "/health"},
    {"/livez", "/health"},
    {"/readyz", "/health"},
    {"/load", "/get_load"},
    {"/docs", "/openapi.json"},
});

// The path's components in lower case, without empty ones.
std::vector<std::string> components_of(std::string_view path) {
  std::vector<std::string> components;
  while (!path.empty()) {
    const size_t end = std::min(path.find('/'), path.size());
    std::string part(path.substr(0, end));
    std::ranges::transform(part, part.begin(),
                           [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (!part.empty()) components.push_back(std::move(part));
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return components;
}

bool is_served(std::string_view path) {
  const auto same = [&](const Route& route) { return route.path == path; };
  return path != "/" && std::ranges::any_of(routes(), same);
}

std::string meant(std::string_view path) {
  const std::vector<std::string> components = components_of(path);
  // A prefix that is missing, too many, or of another server.
  for (size_t skipped = 0; skipped < components.size(); ++skipped) {
    std::string end;
    for (size_t i = skipped; i < components.size(); ++i) end += "/" + components[i];
    for (const char* prefix : {"/v1", ""}) {
      if (is_served(prefix + end)) return prefix + end;
    }
  }
  if (components.empty()) return "";
  const std::string last = "/" + components.back();
  for (const auto& [foreign, here] : kForeign) {
    if (last == foreign) return std::string(here);
  }
  return "";
}

}  // namespace

std::string path_hint(std::string_view path) {
  const std::string hint = meant(path);
  return hint.empty() ? "" : fmt::format("; did you mean {}?", hint);
}

}  // namespace chorale::server
