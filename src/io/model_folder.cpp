#include "io/model_folder.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <system_error>
#include <vector>

#include <fmt/ranges.h>

#include "base/error.h"
#include "io/file_access.h"
#include "io/foreign_file.h"
#include "io/hub_cache.h"

namespace chorale::io {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kCachePrefix = "models--";
constexpr std::string_view kSnapshots = "snapshots";
constexpr size_t kSniffedBytes = 512;

// Without the empty component at the end of "a/b/".
fs::path trimmed(const fs::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

bool is_folder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    entries.push_back(entry->path());
  }
  std::ranges::sort(entries);
  return entries;
}

// The folder models--ORG--NAME that the path is, or is a part of.
std::optional<fs::path> cached_model(const fs::path& path) {
  const auto is_model = [](const fs::path& p) { return p.filename().string().starts_with(kCachePrefix); };
  const fs::path folder = trimmed(path);
  if (is_model(folder)) return folder;
  const fs::path parent = folder.parent_path();
  if (folder.filename() == kSnapshots && is_model(parent)) return parent;
  if (parent.filename() == kSnapshots && is_model(parent.parent_path())) return parent.parent_path();
  return std::nullopt;
}

// ORG/NAME where the text is that, also with what other programs put behind it (a revision, the name of a
// quantization), or the address of its page; else empty.
std::string hub_name_in(std::string_view text) {
  bool has_site = false;
  for (const std::string_view site :
       {"https://", "http://", "hf://", "www.", "huggingface.co/", "hf.co/", "modelscope.cn/models/"}) {
    if (!text.starts_with(site)) continue;
    text.remove_prefix(site.size());
    has_site = true;
  }
  text = text.substr(0, text.find_first_of(":@?#"));
  const size_t slash = text.find('/');
  const size_t second = slash == std::string_view::npos ? slash : text.find('/', slash + 1);
  if (has_site || second + 1 == text.size()) text = text.substr(0, second);  // pages of it
  return is_hub_name(text) ? std::string(text) : "";
}

[[noreturn]] void refuse_missing(const fs::path& path) {
  const std::string name = path.string();
  if (const std::string hub = hub_name_in(name); !hub.empty()) refuse_absent_model(name, hub, "");
  throw_error("{}: expected a folder with a checkpoint, found nothing", name);
}

[[noreturn]] void refuse_file(const fs::path& path) {
  const std::string name = path.string();
  std::error_code error;
  if (fs::is_regular_file(path, error)) {
    const MappedFile file(path);
    refuse_foreign_file(file.bytes().first(std::min(file.bytes().size(), kSniffedBytes)), name);
  }
  const std::string extension = path.extension().string();
  if (extension == ".safetensors" || extension == ".json") {
    throw_error("{}: expected a folder with a checkpoint, found one of its files; give its folder, {}", name,
                path.has_parent_path() ? path.parent_path().string() : ".");
  }
  throw_error("{}: expected a folder with a checkpoint, found a file", name);
}

}  // namespace

fs::path checkpoint_folder(const fs::path& path, std::string_view revision) {
  const std::optional<fs::path> model = cached_model(path);
  // Not a snapshot, nor a folder that is merely called like one of the cache.
  const bool is_cached = model && !has_entry(path / "config.json") &&
                         (trimmed(path) == *model || trimmed(path) == *model / kSnapshots);
  if (is_cached)
    return is_folder(*model / kSnapshots) ? hub_snapshot(*model, hub_name(path), revision) : path;
  const std::string name = path.string();
  std::error_code error;
  if (is_hub_name(name) && !fs::exists(path, error)) {
    const fs::path folder = hub_model_folder(name);
    if (!is_folder(folder)) refuse_absent_model(name, name, revision);
    return hub_snapshot(folder, name, revision);
  }
  if (!revision.empty()) {
    throw_error("--revision: it is for a model by its name, ORG/NAME, and {} is {}", name,
                fs::exists(path, error) ? "a folder" : "neither that nor a folder");
  }
  return path;
}

std::string hub_name(const fs::path& path) {
  const std::optional<fs::path> model = cached_model(path);
  if (!model) return "";
  const std::string coded = model->filename().string();
  std::string name;
  for (size_t at = kCachePrefix.size(); at < coded.size(); ++at) {
    const bool is_slash = coded.compare(at, 2, "--") == 0;
    name += is_slash ? '/' : coded[at];
    if (is_slash) ++at;
  }
  return name;
}

std::string model_name(const fs::path& path) {
  const std::string name = hub_name(path);
  return name.empty() ? trimmed(path).filename().string() : name;
}

void require_checkpoint_folder(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) refuse_missing(path);
  if (!is_folder(path)) refuse_file(path);
  if (has_entry(path / "config.json")) return;
  const std::string name = path.string();
  const std::vector<fs::path> entries = entries_of(path);
  const auto has_gguf = [](const fs::path& entry) { return entry.extension() == ".gguf"; };
  if (std::ranges::any_of(entries, has_gguf)) {
    throw_error(
        "{}: expected a checkpoint with config.json and safetensors files, found GGUF files, the format of "
        "llama.cpp; Chorale reads the original checkpoint",
        name);
  }
  if (cached_model(path)) {
    throw_error(
        "{}: expected a folder with a checkpoint, found a folder of Hugging Face's cache without config.json",
        name);
  }
  std::vector<std::string> below;
  for (const fs::path& entry : entries) {
    if (has_entry(checkpoint_folder(entry) / "config.json")) below.push_back(entry.string());
  }
  constexpr size_t kNamed = 5;
  if (below.size() > kNamed) below.resize(kNamed);
  if (!below.empty()) {
    throw_error(
        "{}: expected a folder with a checkpoint, found a folder of such folders; give one of them, as {}",
        name, fmt::join(below, " or "));
  }
}

}  // namespace chorale::io
