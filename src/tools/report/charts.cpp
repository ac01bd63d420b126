#include "tools/report/charts.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

#include <fmt/format.h>

namespace chorale::tools {
namespace {

// Lengths in the drawing's own units; the page scales it.
constexpr double kWidth = 560;
constexpr double kLabelWidth = 216;
constexpr double kValueWidth = 62;  // right of the longest bar
constexpr double kPlotWidth = kWidth - kLabelWidth - kValueWidth;
constexpr double kBar = 12;
constexpr double kBarGap = 2;     // between the bars of one label
constexpr double kLabelGap = 10;  // between labels
constexpr double kAxisHeight = 20;
constexpr int kTicks = 5;
constexpr size_t kLabelCharacters = 28;  // that fit

double row_height(const BarChart& chart) {
  const size_t bars = chart.stacked ? 1 : chart.series.size();
  return static_cast<double>(bars) * (kBar + kBarGap) - kBarGap + kLabelGap;
}

double row_total(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

double largest_bar(const BarChart& chart) {
  double largest = 0;
  for (const std::vector<double>& row : chart.values)
    largest = std::max(largest, chart.stacked ? row_total(row) : *std::max_element(row.begin(), row.end()));
  return largest;
}

struct Canvas {
  std::string svg;
  double scale = 0;  // units of length per unit of value

  void bar(double x, double y, double width, size_t series, const std::string& hint) {
    fmt::format_to(std::back_inserter(svg),
                   "<rect class=\"s{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{}\"><title>{}"
                   "</title></rect>\n",
                   series, x, y, width, kBar, html_escape(hint));
  }
  void text(std::string_view css, double x, double y, std::string_view content) {
    fmt::format_to(std::back_inserter(svg), "<text class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", css,
                   x, y, html_escape(content));
  }
  void line(std::string_view css, double x, double y, double height) {
    fmt::format_to(std::back_inserter(svg),
                   "<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", css, x,
                   y, x, y + height);
  }
};

// Lines at whole steps, the last of which is at or right of the end of the longest bar.
void draw_grid(const BarChart& chart, double height, Canvas& canvas) {
  const double largest = largest_bar(chart);
  const double step = nice_step(largest, kTicks);
  const double steps = std::max(1.0, std::ceil(largest / step - 1e-9));
  canvas.scale = kPlotWidth / (steps * step);
  for (double i = 0; i <= steps; ++i) {
    const double x = kLabelWidth + i * step * canvas.scale;
    canvas.line(i == 0 ? "axis" : "grid", x, 0, height);
    canvas.text("tick", x, height + kAxisHeight - 6, chart.format(i * step));
  }
}

void draw_row(const BarChart& chart, size_t row, double y, Canvas& canvas) {
  const std::string& label = chart.labels[row];
  const double middle = y + (row_height(chart) - kLabelGap) / 2;
  const bool fits = label.size() <= kLabelCharacters;
  canvas.text("label", kLabelWidth - 8, middle + 4,
              fits ? label : label.substr(0, kLabelCharacters - 3) + "...");
  double x = kLabelWidth;
  for (size_t s = 0; s < chart.series.size(); ++s) {
    const double value = chart.values[row][s];
    const double width = value * canvas.scale;
    const std::string number = chart.format(value);
    canvas.bar(x, y, width, s, fmt::format("{}, {}: {}", label, chart.series[s], number));
    if (chart.stacked) {
      x += width;
    } else {
      canvas.text("value", x + width + 5, y + kBar - 2.5, number);
      y += kBar + kBarGap;
    }
  }
  if (chart.stacked) canvas.text("value", x + 5, y + kBar - 2.5, chart.format(row_total(chart.values[row])));
}

}  // namespace

std::string html_escape(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '&':
        escaped += "&amp;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default: {
        const auto byte = static_cast<unsigned char>(c);
        const bool forbidden = byte < 0x20 && c != '\n' && c != '\t' && c != '\r';
        escaped += forbidden ? "\uFFFD" : std::string(1, c);
      }
    }
  }
  return escaped;
}

double nice_step(double largest, int parts) {
  if (!(largest > 0)) return 1;
  const double rough = largest / parts;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 2.5, 5.0})
    if (factor * power >= rough * (1 - 1e-9)) return factor * power;
  return 10 * power;
}

std::string draw(const BarChart& chart) {
  if (chart.labels.empty()) return "";
  const double height = static_cast<double>(chart.labels.size()) * row_height(chart);
  Canvas canvas;
  draw_grid(chart, height, canvas);
  for (size_t row = 0; row < chart.labels.size(); ++row)
    draw_row(chart, row, kLabelGap / 2 + static_cast<double>(row) * row_height(chart), canvas);

  std::string legend;
  for (size_t s = 0; s < chart.series.size(); ++s)
    legend += fmt::format("<span><i class=\"s{}\"></i>{}</span>", s, html_escape(chart.series[s]));
  return fmt::format(
      "<figure>\n<figcaption><b>{}</b> {}</figcaption>\n<div class=\"legend\">{}</div>\n"
      "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n{}</svg>\n</figure>\n",
      html_escape(chart.title), html_escape(chart.subtitle), legend, kWidth, height + kAxisHeight,
      html_escape(chart.title), canvas.svg);
}

}  // namespace chorale::tools
