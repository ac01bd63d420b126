// What collectives of GPUs take, recorded and given again, by rows of int64 [2,048] of each rank: as a layer
// has them, the sums in int64 and what is gathered in bf16. gpu_comm_bench
#include <chrono>
#include <cstdio>

#include "gpu/comm/ranks.h"

namespace chorale::comm {
namespace {

constexpr int64_t kColumns = 2048;
constexpr int kOperations = 20;  // in one recording
constexpr int kReplays = 20;

// Microseconds of one operation, of the slowest rank.
template <typename Run>
double measure(const RankOfTest& rank, const Run& run) {
  run();
  rank.queue.synchronize();
  rank.queue.begin_recording();
  for (int i = 0; i < kOperations; ++i) run();
  const std::unique_ptr<Recording> recorded = rank.queue.end_recording();
  rank.queue.replay(*recorded);
  rank.queue.synchronize();
  rank.transport->barrier();
  rank.queue.mark_time();
  for (int i = 0; i < kReplays; ++i) rank.queue.replay(*recorded);
  rank.queue.mark_time();
  double seconds = rank.queue.take_marks()[1];
  std::vector<double> all(static_cast<size_t>(rank.transport->size()));
  rank.transport->all_gather(std::as_bytes(std::span(&seconds, 1)),
                             std::vector<int64_t>(all.size(), sizeof seconds),
                             std::as_writable_bytes(std::span(all)));
  for (const double other : all) seconds = std::max(seconds, other);
  return seconds * 1e6 / (kOperations * kReplays);
}

void measure_rows(const RankOfTest& rank, int64_t rows) {
  const Stream stream(rank.queue);
  const Communicator group(rank.transport);
  const int ranks = group.size();
  const std::vector<int64_t> rows_of(static_cast<size_t>(ranks), rows);
  const auto values = static_cast<size_t>(rows * ranks * kColumns);
  const DeviceVector<int64_t> parts(rank, values), sums(rank, values / static_cast<size_t>(ranks));
  const DeviceVector<int32_t> mine(rank, values / static_cast<size_t>(2 * ranks)), all(rank, values / 2);
  const DeviceVector<int64_t> sent(rank, std::span<const int64_t>(rows_of)), received(rank, rows_of.size());
  const double reduce = measure(rank, [&] {
    group.reduce_scatter_sum(stream, parts.tensor(rows * ranks), rows_of, sums.tensor(rows),
                             Purpose::attention);
  });
  const double gather = measure(rank, [&] {
    group.all_gather_rows(stream, mine.tensor(rows), rows_of, all.tensor(rows * ranks), Purpose::attention);
  });
  const DeviceVector<int64_t> there(rank, values);
  const double exchange = measure(rank, [&] {
    group.all_to_all_rows(stream, parts.tensor(rows * ranks), sent.tensor(), there.tensor(rows * ranks),
                          received.tensor(), Purpose::combine);
  });
  if (group.rank() == 0)
    std::printf("%8ld %16.2f %16.2f %16.2f\n", static_cast<long>(rows), reduce, gather, exchange);
}

void run() {
  for (const Ranks& shape : all_ranks()) {
    if (shape.kind == Kind::host) continue;
    std::printf("%s, us\n%8s %16s %16s %16s\n", shape.name().c_str(), "rows", "reduce-scatter",
                "all-gather bf16", "all-to-all i64");
    const auto errors = run_on_gpus(shape, std::chrono::seconds(20), [](const RankOfTest& rank) {
      for (const int64_t rows : {1, 8, 32, 128, 512, 2048}) measure_rows(rank, rows);
    });
    for (const auto& error : errors) {
      if (error) throw *error;
    }
  }
}

}  // namespace
}  // namespace chorale::comm

int main() {
  try {
    chorale::comm::run();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gpu_comm_bench: %s\n", error.what());
    return 1;
  }
}
