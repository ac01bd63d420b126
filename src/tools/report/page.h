// The frame of a report: one HTML page that needs nothing else, no scripts, fonts or images from elsewhere.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace chorale::tools {

using ReportFacts = std::vector<std::pair<std::string, std::string>>;  // names and values

// Plain text is escaped here.
struct ReportPage {
  std::string title, heading;
  std::string verdict;  // one sentence
  bool is_bad = false;  // what it says
  ReportFacts facts;    // about the model, the machine and so on
  std::string table;    // HTML: the inside of a table element
  std::vector<std::string> notes;
  std::string charts;  // HTML, of draw() in tools/report/charts.h
};

std::string report_page(const ReportPage& page);

}  // namespace chorale::tools
