// The conformance suite over the processes that mpirun starts: mpi_conformance --name=NAME [--piece-bytes=N].
// Rank 0 prints and writes the report, into NAME_tests.xml where GTEST_OUTPUT names a folder; the other ranks
// print only what fails.
#include <cstdio>
#include <ctime>
#include <string>

#include "base/error.h"
#include "comm/mpi/mpi_world.h"
#include "unit/comm/conformance.h"

namespace chorale::comm {
namespace {

MpiWorld* world = nullptr;

class MpiConformance : public testing::TestWithParam<conformance::Case> {};

TEST_P(MpiConformance, Holds) {
  GetParam().run(*world->transport());
}

INSTANTIATE_TEST_SUITE_P(Processes, MpiConformance, testing::ValuesIn(conformance::cases()),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(MpiWorld, KnowsItsHost) {
  EXPECT_TRUE(MpiWorld::is_launched_by_mpi());
  std::vector<int> all(static_cast<size_t>(world->size()));
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(world->ranks_on_this_host(), all);
  for (const int rank : all) {
    EXPECT_FALSE(world->host_of(rank).empty());
    EXPECT_EQ(world->host_of(rank), world->host_of(0));
  }
  EXPECT_EQ(world->transport()->rank(), world->rank());
  EXPECT_FALSE(world->dead_peer());
}

double cpu_seconds() {
  timespec t = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

// A rank that sleeps wakes up every 2 ms, which takes 10 to 50 us, that is 0.5 to 2.5%, depending on the
// machine; one that spins, or only gives way to others, takes all the time there is.
TEST(MpiWorld, WaitingForTheNextStepTakesNextToNoCpu) {
  constexpr double kSeconds = 2;
  Transport& t = *world->transport();
  t.barrier();
  std::byte message{};
  const double before = cpu_seconds();
  if (t.rank() == 0) std::this_thread::sleep_for(std::chrono::duration<double>(kSeconds));
  t.await_broadcast({&message, 1}, 0);
  EXPECT_LT(cpu_seconds() - before, 0.1 * kSeconds) << "of " << kSeconds << " s, on rank " << t.rank();
}

class Failures : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (result.failed())
      std::fprintf(stderr, "rank %d: %s:%d: %s\n", world->rank(), result.file_name(), result.line_number(),
                   result.message());
  }
};

// Before GoogleTest starts, which then takes the name as it is.
void choose_report(const std::string& name) {
  std::string& report = testing::GTEST_FLAG(output);
  if (world->rank() != 0)
    report.clear();
  else if (report.ends_with('/'))
    report += name + "_tests.xml";
}

void print_failures_only() {
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new Failures);
}

int run(int argc, char** argv) {
  MpiOptions options{.time_limit = std::chrono::seconds(60)};  // the machine may be busy
  std::string name = "mpi";
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.starts_with("--name=")) name = argument.substr(7);
    if (argument.starts_with("--piece-bytes=")) options.piece_bytes = std::stoul(argument.substr(14));
  }
  MpiWorld own(options);
  world = &own;
  choose_report(name);
  testing::InitGoogleTest(&argc, argv);
  if (own.rank() != 0) print_failures_only();
  return RUN_ALL_TESTS();
}

}  // namespace
}  // namespace chorale::comm

int main(int argc, char** argv) {
  try {
    return chorale::comm::run(argc, argv);
  } catch (const chorale::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
