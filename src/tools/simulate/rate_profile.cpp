#include "tools/simulate/rate_profile.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <numbers>
#include <optional>

#include <fmt/format.h>

#include "base/error.h"
#include "io/file_access.h"

namespace chorale::simulate {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{1} << 26;
constexpr double kDay = 86400;
constexpr int kPointsOfDay = 96;
constexpr double kMaxRate = 1e9;
constexpr double kMaxSeconds = 1e9;

std::optional<double> to_number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || std::isnan(value)) return std::nullopt;
  return value;
}

bool is_rate(double rate) {
  return rate >= 0 && rate <= kMaxRate;
}

RateProfile parse_day(std::string_view text) {
  const std::string_view range = text.substr(std::string_view("day:").size());
  const size_t dots = range.find("..");
  const double low = to_number(range.substr(0, std::min(dots, range.size()))).value_or(-1);
  const double high = dots == range.npos ? -1 : to_number(range.substr(dots + 2)).value_or(-1);
  if (!is_rate(low) || !is_rate(high) || high <= 0 || low > high)
    throw_error("--rate: expected day:LOW..HIGH with rates of at most {}, found \"{}\"", kMaxRate, text);
  std::vector<RateProfile::Point> points;
  for (int i = 0; i <= kPointsOfDay; ++i) {
    const double part = static_cast<double>(i) / kPointsOfDay;
    const double height = (1 - std::cos(2 * std::numbers::pi * part)) / 2;
    points.push_back({.seconds = kDay * part, .rate = low + (high - low) * height});
  }
  return {std::move(points), text};
}

// The next word of a line; empty at its end.
std::string_view take_word(std::string_view& line) {
  constexpr std::string_view kBlank = " \t\r,";
  line.remove_prefix(std::min(line.find_first_not_of(kBlank), line.size()));
  const std::string_view word = line.substr(0, line.find_first_of(kBlank));
  line.remove_prefix(word.size());
  return word;
}

}  // namespace

RateProfile::RateProfile(double rate)
    : rate_(rate), description_(std::isinf(rate) ? "all at once" : fmt::format("{} per second", rate)) {
  CHORALE_CHECK(rate > 0, "a rate of {}", rate);
}

RateProfile::RateProfile(std::vector<Point> points, std::string_view source)
    : points_(std::move(points)), description_(source) {
  if (points_.size() < 2 || points_.front().seconds != 0)
    throw_error("{}: expected two points or more, of which the first is at 0 seconds", source);
  requests_.push_back(0);
  for (size_t i = 0; i < points_.size(); ++i) {
    const Point& point = points_[i];
    if (!(point.rate >= 0) || point.rate > kMaxRate)
      throw_error("{}: expected rates from 0 to {}, found {}", source, kMaxRate, point.rate);
    if (i == 0) continue;
    const double seconds = point.seconds - points_[i - 1].seconds;
    if (!(seconds > 0) || point.seconds > kMaxSeconds)
      throw_error("{}: expected seconds that ascend to at most {}, found {} after {}", source, kMaxSeconds,
                  point.seconds, points_[i - 1].seconds);
    requests_.push_back(requests_.back() + seconds * (points_[i - 1].rate + point.rate) / 2);
  }
  if (!(requests_.back() > 0)) throw_error("{}: the rate is 0 throughout", source);
}

RateProfile RateProfile::parse(const std::string& text) {
  if (text == "inf") return RateProfile(std::numeric_limits<double>::infinity());
  if (text.starts_with("day:")) return parse_day(text);
  if (const auto rate = to_number(text)) {
    if (!is_rate(*rate) || *rate <= 0)
      throw_error("--rate: expected a number above 0 and up to {}, or inf, found {}", kMaxRate, text);
    return RateProfile(*rate);
  }
  if (!std::filesystem::exists(text))
    throw_error("--rate: expected a number, inf, day:LOW..HIGH or a file, found \"{}\"", text);
  return parse_file(io::read_text_file(text, kMaxFileBytes), "--rate " + text);
}

RateProfile RateProfile::parse_file(std::string_view text, std::string_view source) {
  std::vector<Point> points;
  for (int64_t number = 1; !text.empty(); ++number) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    line = line.substr(0, line.find('#'));
    const std::string_view seconds_text = take_word(line);
    if (seconds_text.empty()) continue;
    const auto seconds = to_number(seconds_text);
    const auto rate = to_number(take_word(line));
    if (!seconds || !rate || !take_word(line).empty())
      throw_error("{}, line {}: expected SECONDS RATE", source, number);
    points.push_back({.seconds = *seconds, .rate = *rate});
  }
  return {std::move(points), source};
}

double RateProfile::period() const {
  return points_.empty() ? 0 : points_.back().seconds;
}

double RateProfile::time_of(double requests) const {
  if (points_.empty()) return std::isinf(rate_) ? 0 : requests / rate_;
  const double rounds = std::floor(requests / requests_.back());
  const double rest = requests - rounds * requests_.back();
  const auto after = std::upper_bound(requests_.begin() + 1, requests_.end() - 1, rest);
  const auto i = static_cast<size_t>(after - requests_.begin());
  const double seconds = points_[i].seconds - points_[i - 1].seconds;
  const double start = points_[i - 1].rate;
  const double slope = (points_[i].rate - start) / seconds;
  // start * t + slope * t^2 / 2 = wanted, in the form that holds for a slope of 0, too.
  const double wanted = rest - requests_[i - 1];
  const double root = std::sqrt(std::max(start * start + 2 * slope * wanted, 0.0));
  const double t = wanted > 0 ? 2 * wanted / (start + root) : 0;
  return rounds * period() + points_[i - 1].seconds + std::min(t, seconds);
}

}  // namespace chorale::simulate
