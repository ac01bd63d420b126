#include "io/hub_cache.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "io/file_access.h"

namespace chorale::io {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxNameBytes = 96;
constexpr size_t kMaxRevisionBytes = 200;
constexpr size_t kMinCommitDigits = 4;
constexpr uint64_t kMaxRefBytes = 4096;
constexpr size_t kMostNamed = 5;  // snapshots, in a message

bool is_letter_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool consists_of(std::string_view text, std::string_view others) {
  return std::ranges::all_of(
      text, [&](char c) { return is_letter_or_digit(c) || others.find(c) != std::string_view::npos; });
}

bool is_name_part(std::string_view part) {
  const auto is_edge = [](char c) { return c != '-' && c != '.'; };
  return !part.empty() && is_edge(part.front()) && is_edge(part.back()) && consists_of(part, "-_.") &&
         part.find("--") == std::string_view::npos && part.find("..") == std::string_view::npos;
}

// One that can be looked up in a folder, and stands in a command line as it is.
bool is_revision(std::string_view text) {
  if (text.empty() || text.size() > kMaxRevisionBytes || text.front() == '-') return false;
  if (!consists_of(text, "-_./+@")) return false;
  while (true) {
    const size_t slash = std::min(text.find('/'), text.size());
    const std::string_view part = text.substr(0, slash);
    if (part.empty() || part == "." || part == "..") return false;
    if (slash == text.size()) return true;
    text.remove_prefix(slash + 1);
  }
}

bool is_folder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

std::optional<std::string> variable(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') return std::nullopt;
  std::string text = value;
  const char* home = std::getenv("HOME");
  if (home != nullptr && (text == "~" || text.starts_with("~/"))) text.replace(0, 1, home);
  return text;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (is_folder(entry->path())) names.push_back(entry->path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

std::string download_line(std::string_view name, std::string_view revision) {
  return revision.empty() ? fmt::format("hf download {}", name)
                          : fmt::format("hf download {} --revision {}", name, revision);
}

// The commit that a branch or a tag was at when it was downloaded.
std::optional<std::string> commit_of(const fs::path& model_folder, std::string_view ref) {
  const fs::path file = model_folder / "refs" / ref;
  std::error_code error;
  if (!fs::is_regular_file(file, error)) return std::nullopt;
  std::string commit = read_text_file(file, kMaxRefBytes);
  while (!commit.empty() && (commit.back() == '\n' || commit.back() == '\r')) commit.pop_back();
  if (commit.empty() || !consists_of(commit, "")) return std::nullopt;
  return commit;
}

// Names of snapshots that begin with the digits; of these few are told.
std::string some_of(std::vector<std::string> names) {
  const bool has_more = names.size() > kMostNamed;
  names.resize(std::min(names.size(), kMostNamed));
  return fmt::format("{}{}", fmt::join(names, ", "), has_more ? ", ..." : "");
}

// The name of the snapshot that is meant, or none.
std::optional<std::string> choose_snapshot(const fs::path& model_folder, std::string_view name,
                                           std::string_view revision) {
  std::vector<std::string> all = names_in(model_folder / "snapshots");
  const auto has = [&](std::string_view commit) { return std::ranges::find(all, commit) != all.end(); };
  if (const auto commit = commit_of(model_folder, revision.empty() ? "main" : revision);
      commit && has(*commit))
    return commit;
  if (has(revision)) return std::string(revision);
  if (!revision.empty() && revision.size() < kMinCommitDigits) return std::nullopt;
  std::erase_if(all, [&](const std::string& commit) { return !commit.starts_with(revision); });
  if (all.size() > 1) {
    throw_error("{}: {} has several snapshots{}; tell by --revision which is meant: {}", name,
                model_folder.string(), revision.empty() ? "" : fmt::format(" that begin with {}", revision),
                some_of(std::move(all)));
  }
  if (all.empty()) return std::nullopt;
  return all.front();
}

}  // namespace

bool is_hub_name(std::string_view text) {
  const size_t slash = text.find('/');
  return text.size() <= kMaxNameBytes && slash != std::string_view::npos &&
         is_name_part(text.substr(0, slash)) && is_name_part(text.substr(slash + 1));
}

fs::path hub_cache() {
  if (const auto folder = variable("HF_HUB_CACHE")) return *folder;
  if (const auto folder = variable("HUGGINGFACE_HUB_CACHE")) return *folder;
  if (const auto folder = variable("HF_HOME")) return fs::path(*folder) / "hub";
  if (const auto folder = variable("XDG_CACHE_HOME")) return fs::path(*folder) / "huggingface" / "hub";
  return fs::path(variable("HOME").value_or("")) / ".cache" / "huggingface" / "hub";
}

fs::path hub_model_folder(std::string_view name) {
  const size_t slash = name.find('/');
  return hub_cache() / fmt::format("models--{}--{}", name.substr(0, slash), name.substr(slash + 1));
}

fs::path hub_snapshot(const fs::path& model_folder, std::string_view name, std::string_view revision) {
  if (!revision.empty() && !is_revision(revision)) {
    throw_error("--revision: expected a branch, a tag or a commit, found \"{}\"",
                revision.substr(0, kMaxRevisionBytes));
  }
  const auto commit = choose_snapshot(model_folder, name, revision);
  if (!commit) {
    throw_error("{}: {} has no snapshot{}; download it first: {}", name, model_folder.string(),
                revision.empty() ? "" : fmt::format(" of the revision {}", revision),
                download_line(name, revision));
  }
  fs::path snapshot = model_folder / "snapshots" / *commit;
  if (!has_entry(snapshot / "config.json")) {
    throw_error("{}: {} has no config.json, so the download is not complete; download it again: {}", name,
                snapshot.string(), download_line(name, revision));
  }
  return snapshot;
}

void refuse_absent_model(std::string_view given, std::string_view name, std::string_view revision) {
  throw_error(
      "{}: there is no such folder, and no such model in the cache of Hugging Face, {}; if it is a model of "
      "the Hub, download it first: {}",
      given, hub_cache().string(), download_line(name, revision));
}

}  // namespace chorale::io
