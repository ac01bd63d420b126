#include "tools/compare/prediction_error.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "base/error.h"

namespace chorale::tools {
namespace {

const parallel::Prediction* predicted(const Outcome& outcome) {
  return outcome.measured && outcome.measured->predicted ? &*outcome.measured->predicted : nullptr;
}

std::string percent_off(double predicted, double measured) {
  return measured > 0 ? fmt::format("{:+.0f}%", 100 * (predicted / measured - 1)) : "-";
}

std::string line(const Outcome& outcome, const parallel::Prediction& p) {
  const Measurement& m = *outcome.measured;
  const double first = m.first_token ? m.first_token->median : 0;
  const double between = m.between ? m.between->median : 0;
  return fmt::format("{:<34} {:>8.4g} {:>8.4g} {:>6}  {:>8.4g} {:>8.4g} {:>6}  {:>8.4g} {:>8.4g} {:>6}\n",
                     label(outcome.strategy), m.output_rate, p.output_rate,
                     percent_off(p.output_rate, m.output_rate), first * 1e3, p.first_token_median * 1e3,
                     percent_off(p.first_token_median, first), between * 1e3, p.between_median * 1e3,
                     percent_off(p.between_median, between));
}

}  // namespace

double kendall_tau(std::span<const double> a, std::span<const double> b) {
  CHORALE_CHECK(a.size() == b.size() && a.size() >= 2);
  const auto sign = [](double value) { return value > 0 ? 1 : value < 0 ? -1 : 0; };
  int64_t agreement = 0, pairs = 0;
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t j = i + 1; j < a.size(); ++j, ++pairs) agreement += sign(a[i] - a[j]) * sign(b[i] - b[j]);
  return static_cast<double>(agreement) / static_cast<double>(pairs);
}

std::optional<PredictionError> prediction_error(std::span<const Outcome> outcomes) {
  std::vector<double> measured, said, errors;
  for (const Outcome& outcome : outcomes) {
    const parallel::Prediction* p = predicted(outcome);
    if (p == nullptr) continue;
    measured.push_back(outcome.measured->output_rate);
    said.push_back(p->output_rate);
    errors.push_back(std::abs(said.back() / measured.back() - 1));
  }
  if (measured.size() < 2) return std::nullopt;
  const auto first = static_cast<size_t>(std::max_element(said.begin(), said.end()) - said.begin());
  std::sort(errors.begin(), errors.end());
  const size_t middle = errors.size() / 2;
  return PredictionError{
      .median = errors.size() % 2 == 1 ? errors[middle] : (errors[middle - 1] + errors[middle]) / 2,
      .worst = errors.back(),
      .kendall_tau = kendall_tau(measured, said),
      .first_behind = 1 - measured[first] / *std::max_element(measured.begin(), measured.end())};
}

std::string prediction_table(std::span<const Outcome> outcomes) {
  std::string text;
  for (const Outcome& outcome : outcomes) {
    const parallel::Prediction* p = predicted(outcome);
    if (p != nullptr) text += line(outcome, *p);
  }
  if (text.empty()) return text;
  text =
      fmt::format(
          "{:<34} {:^24}  {:^24}  {:^24}\n{:<34} {:>8} {:>8} {:>6}  {:>8} {:>8} {:>6}  {:>8} {:>8} {:>6}\n",
          "", "output tokens/second", "TTFT, ms, median", "ITL, ms, median", "strategy", "measured",
          "predict.", "error", "measured", "predict.", "error", "measured", "predict.", "error") +
      text;
  if (const auto error = prediction_error(outcomes))
    text += fmt::format(
        "Prediction of tokens per second: median error {:.1f}%, worst {:.1f}%, Kendall's tau {:.2f}; the "
        "strategy "
        "predicted best is {:.1f}% behind the best\n",
        100 * error->median, 100 * error->worst, error->kendall_tau, 100 * error->first_behind);
  return text;
}

}  // namespace chorale::tools
