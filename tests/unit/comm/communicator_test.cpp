// The group of one, and what is told of MPI without MPI. Groups of several are in conformance.h.
#include "comm/communicator.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "comm/local/local_world.h"
#include "comm/mpi/mpi_world.h"
#include "unit/comm/rank_threads.h"

namespace chorale::comm {
namespace {

TEST(Communicator, GroupOfOneIsTheIdentity) {
  ThreadPool pool(1);
  const Stream stream(pool, InstructionSet::portable);
  const Communicator one;
  EXPECT_EQ(one.size(), 1);
  EXPECT_EQ(one.rank(), 0);
  EXPECT_EQ(one.split(3, 4).size(), 1);
  std::vector<int64_t> values{1, 2, 3, 4, 5, 6}, out(6), rows{2}, received{-1};
  const Tensor in(values.data(), DType::i64, 2, 3, 3), result(out.data(), DType::i64, 2, 3, 3);
  one.barrier(stream);
  one.broadcast(stream, std::as_writable_bytes(std::span(values)), 0, Purpose::control);
  one.await_broadcast(stream, std::as_writable_bytes(std::span(values)), 0, Purpose::control);
  one.all_reduce_sum(stream, in, Purpose::combine);
  EXPECT_EQ(values, (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
  one.all_gather_rows(stream, in, rows, result, Purpose::attention);
  EXPECT_EQ(out, values);
  std::fill(out.begin(), out.end(), 0);
  one.reduce_scatter_sum(stream, in, rows, result, Purpose::attention);
  EXPECT_EQ(out, values);
  std::fill(out.begin(), out.end(), 0);
  EXPECT_EQ(one.all_to_all_rows(stream, in, rows, result, received, Purpose::dispatch), 2);
  EXPECT_EQ(out, values);
  EXPECT_EQ(received, rows);
}

TEST(Communicator, ErrorsSayWhichRank) {
  EXPECT_STREQ(rank_failure(3, "out of memory").what(), "rank 3 failed: out of memory");
  EXPECT_EQ(rank_failure(3, "out of memory").rank, 3);
  EXPECT_STREQ(rank_failure(-1, "no answer").what(), "a rank failed: no answer");
}

TEST(Communicator, PurposesHaveNames) {
  for (size_t i = 0; i < kNumPurposes; ++i) EXPECT_NE(name_of(static_cast<Purpose>(i)), "?");
}

TEST(Communicator, PartsOfASplitCountForTheWorld) {
  LocalWorld world(4);
  run_ranks(world, [&](Transport& t) {
    Traffic traffic;
    const Communicator all(world.transport(t.rank()), &traffic);
    const Communicator pair = all.split(t.rank() / 2, t.rank());
    ThreadPool pool(1);
    const Stream stream(pool, InstructionSet::portable);
    std::vector<int64_t> values(10, 1);
    pair.all_reduce_sum(stream, Tensor(values.data(), DType::i64, 2, 5, 5), Purpose::combine);
    EXPECT_EQ(values, std::vector<int64_t>(10, 2));
    EXPECT_EQ(traffic.bytes[static_cast<size_t>(Purpose::combine)], 80U);
    EXPECT_EQ(traffic.operations[static_cast<size_t>(Purpose::combine)], 1U);
  });
  EXPECT_FALSE(world.failure());
}

TEST(MpiWorld, IsLaunchedByMpiLooksAtTheEnvironment) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) unsetenv(name);
  EXPECT_FALSE(MpiWorld::is_launched_by_mpi());
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    setenv(name, "0", 1);
    EXPECT_TRUE(MpiWorld::is_launched_by_mpi()) << name;
    unsetenv(name);
  }
}

}  // namespace
}  // namespace chorale::comm
