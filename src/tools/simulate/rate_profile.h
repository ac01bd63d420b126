// How many requests come per second, over time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace chorale::simulate {

// A constant rate, or one that goes straight from point to point and begins anew after the last. Immutable.
class RateProfile {
 public:
  struct Point {
    double seconds = 0;
    double rate = 0;  // requests per second
  };

  // rate: above 0; infinite: all requests come at once.
  explicit RateProfile(double rate);
  // Throws Error that names `source`: fewer than two points, a first one that is not at 0, times that do not
  // ascend, rates that are negative, or 0 throughout.
  RateProfile(std::vector<Point> points, std::string_view source);

  // As --rate has it: "12.5", "inf", "day:2..40" (over 24 hours from the first number to the second at noon
  // and back, as a cosine), or a file with lines of "SECONDS RATE", where "#" begins a comment. Throws Error
  // that names --rate, or the file and the line.
  static RateProfile parse(const std::string& text);
  static RateProfile parse_file(std::string_view text, std::string_view source);

  // When, in seconds, so many requests have come on average.
  double time_of(double requests) const;
  // Until it begins anew; 0 for a constant one.
  double period() const;
  const std::string& description() const { return description_; }

 private:
  double rate_ = 0;  // where there are no points
  std::vector<Point> points_;
  std::vector<double> requests_;  // that have come on average at each point
  std::string description_;       // for people
};

}  // namespace chorale::simulate
