// Collectives between threads, as ranks of one process have them.
#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/error.h"
#include "comm/local/local_world.h"
#include "tools/calibrate/measure.h"

namespace chorale::calibrate {
namespace {

using Clock = std::chrono::steady_clock;
using parallel::CollectiveKind;

constexpr int64_t kSmallBytes = 64;
constexpr int64_t kLargeBytes = int64_t{64} << 10;  // of each rank, for each other one
constexpr int kOperationsOfAPass = 20;

// One rank's buffers, and one operation in which it shows `bytes` to each other rank.
class Member {
 public:
  Member(std::shared_ptr<comm::Transport> transport, int64_t bytes)
      : transport_(std::move(transport)),
        size_(transport_->size()),
        sizes_(static_cast<size_t>(size_), bytes),
        counts_(static_cast<size_t>(size_), bytes / static_cast<int64_t>(sizeof(int64_t))),
        received_(static_cast<size_t>(size_)),
        part_(static_cast<size_t>(bytes) / sizeof(int64_t)),
        whole_(part_.size() * static_cast<size_t>(size_)),
        other_(whole_.size()) {}

  void operator()(CollectiveKind kind) {
    const auto bytes = [](std::vector<int64_t>& values) { return std::as_writable_bytes(std::span(values)); };
    switch (kind) {
      case CollectiveKind::all_gather:
        return transport_->all_gather(bytes(part_), sizes_, bytes(whole_));
      case CollectiveKind::reduce_scatter:
        return transport_->reduce_scatter_sum(whole_, counts_, part_);
      case CollectiveKind::all_to_all:
        return transport_->all_to_all(bytes(whole_), sizes_, bytes(other_), received_);
      case CollectiveKind::gather:
        return transport_->gather(bytes(part_), sizes_,
                                  transport_->rank() == 0 ? bytes(whole_) : std::span<std::byte>(), 0);
    }
  }
  void barrier() { transport_->barrier(); }

 private:
  std::shared_ptr<comm::Transport> transport_;
  int size_;
  std::vector<int64_t> sizes_, counts_, received_;  // of each rank
  std::vector<int64_t> part_, whole_, other_;
};

// Seconds of one operation, the median of several passes.
double seconds_of(CollectiveKind kind, int ranks, int64_t bytes, int repeats) {
  const comm::LocalWorld world(ranks);
  std::vector<double> passes;
  const auto run = [&](int rank) {
    Member member(world.transport(rank), bytes);
    for (int i = 0; i < kOperationsOfAPass; ++i) member(kind);
    for (int pass = 0; pass < repeats; ++pass) {
      member.barrier();
      const Clock::time_point start = Clock::now();
      for (int i = 0; i < kOperationsOfAPass; ++i) member(kind);
      if (rank == 0)
        passes.push_back(std::chrono::duration<double>(Clock::now() - start).count() / kOperationsOfAPass);
    }
  };
  std::vector<std::jthread> others;
  for (int rank = 1; rank < ranks; ++rank) others.emplace_back(run, rank);
  run(0);
  others.clear();
  return median_of(std::move(passes));
}

}  // namespace

parallel::CollectiveCosts measure_collectives(const Effort& effort) {
  parallel::CollectiveCosts costs;
  for (size_t k = 0; k < parallel::kNumCollectiveKinds; ++k) {
    const auto kind = static_cast<CollectiveKind>(k);
    for (const int ranks : effort.ranks) {
      if (ranks == 1) continue;
      const double latency = seconds_of(kind, ranks, kSmallBytes, effort.repeats);
      const double large = seconds_of(kind, ranks, kLargeBytes, effort.repeats);
      const double received = static_cast<double>((ranks - 1) * (kLargeBytes - kSmallBytes));
      costs[k].latency.points.emplace_back(ranks, latency);
      // A difference that is lost in noise still leaves a figure.
      const double moving = std::max(large - latency, 0.1 * large);
      costs[k].bytes_per_second.points.emplace_back(ranks, received / moving);
    }
  }
  return costs;
}

}  // namespace chorale::calibrate
