// The group of one, and what is told of MPI without MPI. Groups of several are in conformance.h.
#include "comm/communicator.h"

#include <cstdlib>
#include <numeric>

#include <gtest/gtest.h>

#include "base/copy.h"
#include "comm/local/local_world.h"
#include "comm/mpi/mpi_world.h"
#include "unit/base/poisoned_device.h"
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
  EXPECT_EQ(one.all_to_all_rows(stream, in, host_vector<int64_t>(rows), result,
                                host_vector<int64_t>(received), Purpose::dispatch),
            2);
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

// Rows of a device, or of the host, with room between them.
class Rows {
 public:
  Rows(const Stream& stream, int64_t rows)
      : stream_(stream),
        arena_(Arena::matrix_bytes(DType::i64, rows, kColumns), stream.device()),
        tensor_(arena_.matrix(DType::i64, rows, kColumns)) {}
  Rows(const Stream& stream, int64_t rows, int64_t first) : Rows(stream, rows) {
    std::vector<int64_t> values(static_cast<size_t>(tensor_.size()));
    std::iota(values.begin(), values.end(), first);
    copy(stream, host_vector<int64_t>(values).reshaped(rows, kColumns), tensor_);
    stream.synchronize();
  }
  operator const Tensor&() const { return tensor_; }
  std::vector<int64_t> values() const { return download<int64_t>(stream_, tensor_); }

 private:
  static constexpr int64_t kColumns = 5;
  const Stream& stream_;
  Arena arena_;
  Tensor tensor_;
};

// What every collective gives, one after the other, so that memory that one of them still needs shows when
// the next takes it; the second round needs more of it.
std::vector<std::vector<int64_t>> all_collectives(const Stream& stream, const Communicator& group) {
  std::vector<std::vector<int64_t>> results;
  const auto me = static_cast<size_t>(group.rank());
  for (const int64_t scale : {1, 40}) {
    const std::vector<int64_t> rows{2 * scale, 0, 3 * scale};
    const int64_t total = 5 * scale;
    const Rows mine(stream, rows[me], 1000 * group.rank());
    const Rows gathered(stream, total), at_root(stream, group.rank() == 1 ? total : 0);
    const Rows equal(stream, scale, 7 * group.rank()), equal_at_root(stream, 3 * scale);
    const Rows sums(stream, total, group.rank()), part(stream, rows[me]),
        reduced(stream, total, group.rank());
    const std::vector<int64_t> sent{scale, static_cast<int64_t>(me), 1};
    const Rows send(stream, scale + group.rank() + 1, 100 * group.rank()), receive(stream, 10 * scale);
    Arena counts(2 * Arena::dense_matrix_bytes(DType::i64, 1, 3), stream.device());
    const Tensor sent_rows = counts.dense_matrix(DType::i64, 1, 3);
    const Tensor received_rows = counts.dense_matrix(DType::i64, 1, 3);
    copy(stream, host_vector<const int64_t>(sent), sent_rows);
    group.all_gather_rows(stream, mine, rows, gathered, Purpose::attention);
    group.gather_rows(stream, mine, rows, at_root, 1, Purpose::logits);
    group.gather_equal_rows(stream, equal, equal_at_root, 0, Purpose::logits);
    group.reduce_scatter_sum(stream, sums, rows, part, Purpose::attention);
    group.all_reduce_sum(stream, reduced, Purpose::control);
    const int64_t count =
        group.all_to_all_rows(stream, send, sent_rows, receive, received_rows, Purpose::dispatch);
    const std::vector<int64_t> received = download<int64_t>(stream, received_rows);
    EXPECT_EQ(std::accumulate(received.begin(), received.end(), int64_t{0}), count);
    for (const Rows* out : {&gathered, &at_root, &equal_at_root, &part, &reduced, &receive})
      results.push_back(out->values());
    results.push_back(received);
  }
  return results;
}

TEST(Communicator, TensorsOfADeviceAreStagedWhereTheTransportNeedsIt) {
  LocalWorld world(3);
  run_ranks(world, [&](Transport& t) {
    const Communicator group(world.transport(t.rank()));
    ThreadPool pool(1);
    const auto expected = all_collectives(Stream(pool, InstructionSet::portable), group);
    PoisonedDriver driver("test:0");
    LateQueue queue{Device(driver)};
    EXPECT_EQ(all_collectives(Stream(queue), Communicator(world.transport(t.rank()))), expected);
  });
  EXPECT_FALSE(world.failure());
}

TEST(Communicator, AGroupOfOneCopiesOnTheDevice) {
  PoisonedDriver driver("test:0");
  LateQueue queue{Device(driver)};
  const Stream stream(queue);
  const Rows from(stream, 3, 4), to(stream, 3);
  const std::vector<int64_t> rows{3};
  Communicator().all_gather_rows(stream, from, rows, to, Purpose::attention);
  EXPECT_EQ(to.values(), from.values());
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

TEST(MpiWorld, LaunchIsThatOfTheNearestLauncher) {
  // From the nearest to the farthest.
  const std::vector<std::string> names = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS",
                                          "SLURM_NTASKS", "SLURM_NPROCS"};
  for (const std::string& name : names) unsetenv(name.c_str());
  EXPECT_FALSE(MpiWorld::launch().has_value());
  int processes = 2;
  for (auto name = names.rbegin(); name != names.rend(); ++name, ++processes) {
    setenv(name->c_str(), "eight", 1);
    EXPECT_NE(MpiWorld::launch().value_or(MpiWorld::Launch{}).variable, *name);
    setenv(name->c_str(), std::to_string(processes).c_str(), 1);
    ASSERT_TRUE(MpiWorld::launch().has_value());
    EXPECT_EQ(MpiWorld::launch()->variable, *name);
    EXPECT_EQ(MpiWorld::launch()->processes, processes);
  }
  for (const std::string& name : names) unsetenv(name.c_str());
}

}  // namespace
}  // namespace chorale::comm
