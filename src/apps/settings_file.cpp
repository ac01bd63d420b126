#include "apps/settings_file.h"

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <utility>

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include "base/error.h"
#include "io/file_access.h"

namespace chorale::apps {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{256} << 10;

// Takes what the parser tells, and refuses what is not of the form before the parser goes into it.
class SettingsReader : public YAML::EventHandler {
 public:
  explicit SettingsReader(std::string file) : file_(std::move(file)) {}

  std::vector<Setting> take() { return std::move(settings_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (place_ != Place::before) refuse(mark, "a second document, where one is expected");
    place_ = Place::root;
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    check_anchor(mark, anchor);
    if (place_ == Place::root) return;  // an empty file
    if (place_ == Place::key) refuse(mark, "expected a key, found nothing");
    refuse(mark, fmt::format("\"{}\": expected a value, found nothing", settings_.back().key));
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t /*anchor*/) override {
    refuse(mark, "aliases (*name) are not taken");
  }

  void OnScalar(const YAML::Mark& mark, const std::string& /*tag*/, YAML::anchor_t anchor,
                const std::string& value) override {
    check_anchor(mark, anchor);
    switch (place_) {
      case Place::key:
        begin_setting(mark, value);
        place_ = Place::value;
        return;
      case Place::value:
        settings_.back().values.push_back(value);
        place_ = Place::key;
        return;
      case Place::list:
        settings_.back().values.push_back(value);
        return;
      default:
        refuse(mark, "expected lines of the form \"key: value\"");
    }
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& /*tag*/, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value /*style*/) override {
    check_anchor(mark, anchor);
    if (place_ == Place::list) refuse(mark, "a list in a list");
    if (place_ != Place::value) refuse(mark, "expected lines of the form \"key: value\", found a list");
    settings_.back().is_list = true;
    place_ = Place::list;
  }
  void OnSequenceEnd() override { place_ = Place::key; }

  void OnMapStart(const YAML::Mark& mark, const std::string& /*tag*/, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value /*style*/) override {
    check_anchor(mark, anchor);
    if (place_ != Place::root)
      refuse(mark, "keys in another key's value, where a text, a number or a list is expected");
    place_ = Place::key;
  }
  void OnMapEnd() override { place_ = Place::after; }

 private:
  // What comes next.
  enum class Place { before, root, key, value, list, after };

  [[noreturn]] void refuse(const YAML::Mark& mark, const std::string& what) const {
    throw_error("{}, line {}: {}", file_, mark.line + 1, what);
  }

  void check_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor != 0) refuse(mark, "anchors (&name) are not taken");
  }

  void begin_setting(const YAML::Mark& mark, std::string key) {
    std::ranges::replace(key, '_', '-');
    const auto before = std::ranges::find(settings_, key, &Setting::key);
    if (before != settings_.end())
      refuse(mark, fmt::format("\"{}\" is given twice, first in line {}", key, before->line));
    if (settings_.size() == kMaxSettings) refuse(mark, fmt::format("more than {} keys", kMaxSettings));
    settings_.push_back(
        {.key = std::move(key), .values = {}, .is_list = false, .line = static_cast<size_t>(mark.line) + 1});
  }

  static constexpr size_t kMaxSettings = 1000;

  const std::string file_;
  Place place_ = Place::before;
  std::vector<Setting> settings_;
};

}  // namespace

std::vector<Setting> read_settings_file(const std::filesystem::path& file) {
  std::istringstream text(io::read_text_file(file, kMaxFileBytes));
  SettingsReader reader(file.string());
  try {
    YAML::Parser parser(text);
    while (parser.HandleNextDocument(reader)) {
    }
  } catch (const YAML::Exception& error) {
    throw_error("{}, line {}: no YAML: {}", file.string(), error.mark.line + 1, error.msg);
  }
  return reader.take();
}

}  // namespace chorale::apps
