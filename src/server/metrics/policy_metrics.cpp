#include "server/metrics/policy_metrics.h"

#include <vector>

#include <prometheus/client_metric.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

namespace chorale::server {
namespace {

using prometheus::MetricType;

prometheus::ClientMetric metric_of(std::string_view model_name, MetricType type, double value) {
  prometheus::ClientMetric metric;
  metric.label.push_back({"model_name", std::string(model_name)});
  (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  return metric;
}

}  // namespace

std::string policy_metrics(const engine::PolicyReport& report, std::string_view model_name) {
  std::vector<prometheus::MetricFamily> families;
  const auto add = [&](const char* name, const char* help, MetricType type, double value) {
    families.push_back({name, help, type, {metric_of(model_name, type, value)}});
  };
  prometheus::MetricFamily decisions{"chorale_strategy_decisions_total",
                                     "Decisions of the strategy policy, by outcome.",
                                     MetricType::Counter,
                                     {}};
  for (size_t outcome = 0; outcome < engine::kNumPolicyOutcomes; ++outcome) {
    const auto count = static_cast<double>(report.decisions[outcome]);
    decisions.metric.push_back(metric_of(model_name, MetricType::Counter, count));
    decisions.metric.back().label.push_back(
        {"outcome", std::string(engine::name_of(static_cast<engine::PolicyOutcome>(outcome)))});
  }
  families.push_back(std::move(decisions));
  add("chorale_strategy_refused_switches_total",
      "Changes of the strategy that the policy decided and that were refused.", MetricType::Counter,
      static_cast<double>(report.failed_switches));
  add("chorale_strategy_saving_ratio",
      "Share of the time that the best other strategy saves, as predicted for the last decision.",
      MetricType::Gauge, report.saving);
  add("chorale_strategy_switches_left", "Changes of the strategy that the policy may still make this hour.",
      MetricType::Gauge, report.switches_left);
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace chorale::server
