// What /metrics tells of a strategy policy; docs/metrics.md lists it.
#pragma once

#include <string>
#include <string_view>

#include "engine/strategy_controller.h"

namespace chorale::server {

// In the Prometheus text format, every metric with the label model_name.
std::string policy_metrics(const engine::PolicyReport& report, std::string_view model_name);

}  // namespace chorale::server
