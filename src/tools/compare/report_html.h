// A comparison as one HTML page that needs nothing else: no scripts, fonts or images from elsewhere.
#pragma once

#include <string>

#include "tools/compare/report.h"

namespace chorale::tools {

std::string report_html(const CompareReport& report);

}  // namespace chorale::tools
