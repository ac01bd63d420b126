#include "tools/compare/prediction_error.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace chorale::tools {
namespace {

Outcome outcome_of(std::string name, double measured, double predicted) {
  Outcome outcome;
  outcome.strategy = {std::move(name), parallel::Strategy{}, ""};
  outcome.measured.emplace();
  outcome.measured->output_rate = measured;
  outcome.measured->predicted.emplace();
  outcome.measured->predicted->output_rate = predicted;
  return outcome;
}

TEST(PredictionError, KendallsTauCountsPairs) {
  const std::vector<double> values = {1, 2, 3, 4};
  EXPECT_EQ(kendall_tau(values, values), 1);
  EXPECT_EQ(kendall_tau(values, std::vector<double>{4, 3, 2, 1}), -1);
  EXPECT_EQ(kendall_tau(values, std::vector<double>{2, 1, 3, 4}), 4.0 / 6);
  EXPECT_EQ(kendall_tau(values, std::vector<double>{1, 1, 1, 1}), 0);
}

TEST(PredictionError, IsOverWhatWasMeasured) {
  const std::vector<Outcome> outcomes = {outcome_of("a", 100, 110), outcome_of("b", 200, 150),
                                         outcome_of("c", 160, 160)};
  const auto error = prediction_error(outcomes);
  ASSERT_TRUE(error);
  EXPECT_NEAR(error->median, 0.1, 1e-12);
  EXPECT_NEAR(error->worst, 0.25, 1e-12);
  EXPECT_NEAR(error->kendall_tau, 1.0 / 3, 1e-12);
  EXPECT_NEAR(error->first_behind, 0.2, 1e-12);  // c is predicted best, and 160 is 80% of 200
  const std::string table = prediction_table(outcomes);
  EXPECT_NE(table.find("+10%"), std::string::npos) << table;
  EXPECT_NE(table.find("-25%"), std::string::npos) << table;
}

TEST(PredictionError, WithoutPredictionsThereIsNone) {
  std::vector<Outcome> outcomes = {outcome_of("a", 100, 110), outcome_of("b", 1, 1)};
  outcomes[0].measured->predicted.reset();
  EXPECT_FALSE(prediction_error(outcomes));
  outcomes[1].measured.reset();
  EXPECT_EQ(prediction_table(outcomes), "");
}

}  // namespace
}  // namespace chorale::tools
