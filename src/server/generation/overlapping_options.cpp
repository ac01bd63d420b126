#include "server/generation/overlapping_options.h"

#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace chorale::server {
namespace {

constexpr int kMaxQuestions = 64;  // each compiles a part of the schema

class Finder {
 public:
  Finder(const Json& root, const std::function<bool(const Json&)>& overlaps)
      : root_(root), overlaps_(overlaps) {}

  // Whether the value or one inside of it is it; path() is then its path.
  bool find(const Json& value) {
    if (!value.is_structured()) return false;
    size_t index = 0;
    for (auto part = value.begin(); part != value.end(); ++part, ++index) {
      path_.push_back(value.is_object() ? part.key() : std::to_string(index));
      if (find(*part)) return true;
      path_.pop_back();
    }
    return value.is_object() && is_it(value);
  }

  std::string path() const { return fmt::format("{}", fmt::join(path_, ".")); }

 private:
  bool is_it(const Json& schema) {
    const auto options = schema.find("oneOf");
    if (options == schema.end() || !options->is_array() || options->size() < 2) return false;
    if (--num_questions_ < 0) return false;
    Json question = {{"oneOf", *options}};
    for (const char* name : {"$defs", "definitions"}) {
      if (const auto found = root_.find(name); found != root_.end()) question[name] = *found;
    }
    return overlaps_(question);
  }

  const Json& root_;
  const std::function<bool(const Json&)>& overlaps_;
  std::vector<std::string> path_;
  int num_questions_ = kMaxQuestions;
};

}  // namespace

std::optional<std::string> find_overlapping_options(const Json& schema,
                                                    const std::function<bool(const Json&)>& overlaps) {
  Finder finder(schema, overlaps);
  return finder.find(schema) ? std::optional(finder.path()) : std::nullopt;
}

}  // namespace chorale::server
