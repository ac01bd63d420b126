// The conformance suite over threads.
#include <tuple>

#include "unit/comm/conformance.h"
#include "unit/comm/rank_threads.h"

namespace chorale::comm {
namespace {

class LocalConformance : public testing::TestWithParam<std::tuple<conformance::Case, int>> {};

TEST_P(LocalConformance, Holds) {
  const auto& [test, ranks] = GetParam();
  LocalWorld world(ranks);
  const auto errors = run_ranks(world, test.run);
  EXPECT_FALSE(world.failure()) << world.failure()->what();
  for (const auto& error : errors) EXPECT_FALSE(error) << error->what();
}

INSTANTIATE_TEST_SUITE_P(Ranks, LocalConformance,
                         testing::Combine(testing::ValuesIn(conformance::cases()),
                                          testing::Values(1, 2, 3, 4, 8)),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param).name) + "On" +
                                  std::to_string(std::get<1>(test.param));
                         });

}  // namespace
}  // namespace chorale::comm
