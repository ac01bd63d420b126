// Bar charts as SVG inside an HTML page. Colours are classes of the page: s0, s1, ... for series, and grid,
// axis, label and value.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace chorale::tools {

// The text for HTML, in elements and in quoted attributes: <, >, &, " and ' become entities, and characters
// that XML forbids become U+FFFD.
std::string html_escape(std::string_view text);

// A horizontal bar for each label and series.
struct BarChart {
  std::string title;
  std::string subtitle;  // what is measured, and in which unit
  std::vector<std::string> labels;
  std::vector<std::string> series;            // names
  std::vector<std::vector<double>> values;    // [labels][series], not negative
  bool stacked = false;                       // one bar per label, of all series together
  std::function<std::string(double)> format;  // writes a value for people
};

// A figure with its legend. Empty for a chart without labels.
std::string draw(const BarChart& chart);

// The smallest of 1, 2, 2.5 and 5 times a power of ten of which at most `parts` make up `largest`.
double nice_step(double largest, int parts);

}  // namespace chorale::tools
