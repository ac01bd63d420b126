// Collectives of GPUs: the cases of every transport, recorded operations, and ranks that do not come.
#include <cstring>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gpu/comm/on_device.h"
#include "unit/comm/conformance.h"

namespace chorale::comm {
namespace {

constexpr std::chrono::milliseconds kLimit{5'000};

void expect_no_failure(const std::vector<std::optional<CollectiveError>>& errors) {
  for (const auto& error : errors) EXPECT_FALSE(error.has_value()) << error->what();
}

class GpuCollectives : public testing::TestWithParam<Ranks> {};

TEST_P(GpuCollectives, DoWhatEveryTransportMust) {
  for (const conformance::Case& each : conformance::cases()) {
    SCOPED_TRACE(each.name);
    expect_no_failure(run_on_gpus(GetParam(), kLimit, [&](const RankOfTest& rank) {
      if (GetParam().kind == Kind::host) return each.run(*rank.transport);
      OnDevice transport(rank.transport, rank);
      each.run(transport);
    }));
  }
}

// Rows as a step has them: a reduction, a gathering, and an exchange there and back.
struct StepOfTest {
  static constexpr int64_t kColumns = 136;  // int64 of a row
  StepOfTest(const RankOfTest& rank, const std::vector<int64_t>& rows)
      : rank_(rank),
        stream_(rank.queue),
        group_(rank.transport),
        me_(static_cast<size_t>(group_.rank())),
        rows_(rows),
        total_(static_cast<size_t>(std::accumulate(rows.begin(), rows.end(), int64_t{0}))),
        parts_(rank, total_ * kColumns),
        sums_(rank, static_cast<size_t>(rows[me_]) * kColumns),
        all_(rank, total_ * kColumns),
        sent_(rank, rows.size()),
        received_(rank, rows.size()),
        there_(rank, total_ * rows.size() * kColumns),
        back_(rank, total_ * kColumns) {}

  void write(int round) {
    parts_.write(conformance::values({.from = group_.rank(), .round = round}, total_ * kColumns));
    // What goes to a rank changes from round to round, and is at most what there is.
    std::vector<int64_t> counts(rows_.size());
    for (size_t r = 0; r < counts.size(); ++r)
      counts[r] = (rows_[r] + round + static_cast<int64_t>(me_)) % (rows_[r] + 1);
    counts_ = counts;
    sent_.write(counts);
  }

  void run() const {
    const auto ranks = static_cast<int64_t>(rows_.size());
    const auto total = static_cast<int64_t>(total_);
    group_.reduce_scatter_sum(stream_, parts_.tensor(total), rows_, sums_.tensor(rows_[me_]),
                              Purpose::attention);
    group_.all_gather_rows(stream_, sums_.tensor(rows_[me_]), rows_, all_.tensor(total), Purpose::attention);
    group_.all_to_all_rows(stream_, all_.tensor(total), sent_.tensor(), there_.tensor(total * ranks),
                           received_.tensor(), Purpose::dispatch);
    group_.all_to_all_rows(stream_, there_.tensor(total * ranks), received_.tensor(), back_.tensor(total),
                           sent_.tensor(), Purpose::combine);
  }

  void expect(int round) const {
    const std::vector<int64_t> sums =
        conformance::sums(group_.size(), round, total_ * static_cast<size_t>(kColumns));
    EXPECT_EQ(all_.read(), sums) << "round " << round;
    EXPECT_EQ(sent_.read(), counts_) << "round " << round;
    const auto back =
        static_cast<size_t>(std::accumulate(counts_.begin(), counts_.end(), int64_t{0}) * kColumns);
    std::vector<int64_t> returned = back_.read();
    returned.resize(back);
    EXPECT_EQ(returned, std::vector<int64_t>(sums.begin(), sums.begin() + static_cast<ptrdiff_t>(back)))
        << "round " << round;
  }

 private:
  const RankOfTest& rank_;
  Stream stream_;
  Communicator group_;
  size_t me_;
  std::vector<int64_t> rows_;
  size_t total_;
  DeviceVector<int64_t> parts_, sums_, all_, sent_, received_, there_, back_;
  std::vector<int64_t> counts_;
};

TEST_P(GpuCollectives, AreRecordedAndGivenAgain) {
  if (GetParam().kind == Kind::host) return;  // waits on the host
  for (const int64_t rows : {1, 3, 200}) {
    SCOPED_TRACE(rows);
    expect_no_failure(run_on_gpus(GetParam(), kLimit, [&](const RankOfTest& rank) {
      std::vector<int64_t> rows_of(static_cast<size_t>(rank.transport->size()), rows);
      rows_of[0] += 2;  // uneven
      StepOfTest step(rank, rows_of);
      step.write(0);
      step.run();
      rank.queue.synchronize();
      step.expect(0);
      rank.queue.begin_recording();
      step.run();
      const std::unique_ptr<Recording> recorded = rank.queue.end_recording();
      for (int round = 1; round <= 100; ++round) {
        step.write(round);
        // Some ranks give what was recorded, others each operation by itself.
        if ((round + rank.transport->rank()) % 5 == 0)
          step.run();
        else
          rank.queue.replay(*recorded);
        rank.queue.synchronize();
        step.expect(round);
      }
    }));
  }
}

TEST_P(GpuCollectives, ManyFollowEachOtherWithoutTheHost) {
  if (GetParam().kind == Kind::host) return;
  expect_no_failure(run_on_gpus(GetParam(), kLimit, [&](const RankOfTest& rank) {
    StepOfTest step(rank, std::vector<int64_t>(static_cast<size_t>(rank.transport->size()), 7));
    step.write(1);
    for (int i = 0; i < 300; ++i) step.run();
    rank.queue.synchronize();
    step.expect(1);
  }));
}

INSTANTIATE_TEST_SUITE_P(Ranks, GpuCollectives, testing::ValuesIn(all_ranks()),
                         [](const auto& tested) { return tested.param.name(); });

class PeerFailures : public testing::TestWithParam<Ranks> {};

// Rank 1 comes to nothing. All others hear its name, also those that wait for one that waits for it.
TEST_P(PeerFailures, ARankThatDoesNotComeIsNamed) {
  constexpr std::chrono::milliseconds kShort{700};
  const auto start = std::chrono::steady_clock::now();
  const auto errors = run_on_gpus(GetParam(), kShort, [&](const RankOfTest& rank) {
    const std::vector<int64_t> rows(static_cast<size_t>(rank.transport->size()), 2);
    StepOfTest step(rank, rows);
    step.write(0);
    // To the others, a rank that sleeps for so long is one that never comes.
    if (rank.transport->rank() == 1) return std::this_thread::sleep_for(4 * kShort);
    step.run();
    rank.queue.synchronize();
  });
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
  for (const auto& error : errors) {
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(error->rank, 1) << error->what();
    EXPECT_THAT(error->what(), testing::HasSubstr("did not come to a collective operation within 0.7 s"));
  }
}

TEST_P(PeerFailures, ARankThatThrowsEndsTheWaitOfTheOthers) {
  const auto start = std::chrono::steady_clock::now();
  const auto errors = run_on_gpus(GetParam(), kLimit, [&](const RankOfTest& rank) {
    const std::vector<int64_t> rows(static_cast<size_t>(rank.transport->size()), 2);
    if (rank.transport->rank() == 1) throw Error("a failure was asked for");
    StepOfTest step(rank, rows);
    step.write(0);
    step.run();
    rank.queue.synchronize();
  });
  EXPECT_LT(std::chrono::steady_clock::now() - start, kLimit);
  for (size_t r = 0; r < errors.size(); ++r) {
    if (r == 1) continue;
    ASSERT_TRUE(errors[r].has_value());
    EXPECT_STREQ(errors[r]->what(), "rank 1 failed: a failure was asked for");
  }
}

std::vector<Ranks> peers_alone() {
  std::vector<Ranks> all = all_ranks();
  std::erase_if(all, [](const Ranks& ranks) { return ranks.kind != Kind::peer; });
  return all;
}
INSTANTIATE_TEST_SUITE_P(Ranks, PeerFailures, testing::ValuesIn(peers_alone()),
                         [](const auto& tested) { return tested.param.name(); });

}  // namespace
}  // namespace chorale::comm
