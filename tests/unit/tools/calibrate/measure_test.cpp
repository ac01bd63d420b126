// That each part of a calibration comes to figures which a profile may have; not how large they are.
#include "tools/calibrate/measure.h"

#include <gtest/gtest.h>

#include "parallel/machine_profile.h"

namespace chorale::calibrate {
namespace {

TEST(Calibrate, FillsEveryFigure) {
  const Effort effort{.instruction_set = "auto",
                      .repeats = 1,
                      .rows = {1, 8},
                      .ranks = {1, 2},
                      .largest_read = uint64_t{4} << 20};
  parallel::MachineProfile machine;
  machine.read_bandwidth = measure_read_bandwidth(effort);
  measure_ops(effort, machine);
  measure_overheads(effort, machine);
  machine.row_overhead.points = {{1, 1e-6}};
  machine.within = measure_collectives(effort);
  for (const auto& [name, curve] : parallel::named_curves(machine)) curve->source = "test";
  EXPECT_NO_THROW(parallel::check_profile(machine));
  for (const parallel::Curve& curve : machine.products) EXPECT_EQ(curve.points.size(), 2U);
  EXPECT_EQ(machine.within[0].latency.points.size(), 1U);
  EXPECT_EQ(machine.step_overhead.points.size(), 2U);
}

TEST(Calibrate, TheMedianIsTheMiddle) {
  EXPECT_EQ(median_of({3, 1, 2}), 2);
  EXPECT_EQ(median_of({1}), 1);
}

}  // namespace
}  // namespace chorale::calibrate
