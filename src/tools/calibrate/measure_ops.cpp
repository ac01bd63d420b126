// What ops do at full load of all cores, from the profile of steps of a small model, and what they cost
// beyond.
#include <algorithm>
#include <chrono>
#include <map>
#include <utility>
#include <vector>

#include "base/thread_pool.h"
#include "engine/engine.h"
#include "tools/bench/ceilings.h"
#include "tools/calibrate/measure.h"
#include "tools/calibrate/small_model.h"

namespace chorale::calibrate {
namespace {

using parallel::Curve;
using parallel::MachineProfile;
using parallel::ProductKind;

constexpr double kChunks = 8;  // canonical ones of o's and down's inputs
constexpr int64_t kDecodeContext = 256;
constexpr double kSmallest = 1e-9;  // seconds, where a difference of two times comes out as none

// Every op's seconds in one step, the median of several.
std::map<std::string, OpTotal> profile_step(LoadedSmallModel& loaded, OpProfile& profile, int repeats,
                                            int64_t sequences, int64_t tokens_each, int64_t first_position) {
  std::map<std::string, std::vector<double>> seconds;
  std::map<std::string, OpTotal> last;
  time_step(loaded, sequences, tokens_each, first_position);
  for (int i = 0; i < repeats; ++i) {
    profile.start();
    time_step(loaded, sequences, tokens_each, first_position);
    profile.stop();
    last = totals(profile);
    for (const auto& [name, total] : last) seconds[name].push_back(total.seconds);
  }
  for (auto& [name, total] : last) total.seconds = std::max(median_of(seconds[name]), kSmallest);
  return last;
}

void add_point(Curve& curve, double x, double y) {
  curve.points.emplace_back(x, y);
}

// Sums read and the residual updated, which then is read and its norm written: two ops on the CPU.
void add_row_bandwidth(int64_t elements, const OpTotal& sums, const OpTotal& norms, MachineProfile& machine) {
  const auto each = static_cast<double>(elements);
  const double bytes = each * static_cast<double>(sums.calls * (8 + 4 + 4) + norms.calls * (4 + 2));
  add_point(machine.row_bandwidth, each * (8 + 4 + 4 + 4 + 2), bytes / (sums.seconds + norms.seconds));
}

// Two models whose down projections differ in their inputs alone tell sums and products apart: of both, an
// order-free product takes operations / rate + sums / rate of sums.
void add_order_free(int64_t rows, int64_t hidden, const OpTotal& narrow, const OpTotal& wide,
                    MachineProfile& machine) {
  const double more = wide.operations - narrow.operations;
  const double seconds = std::max(wide.seconds - narrow.seconds, kSmallest);
  // Without its sums the product is faster than with them; where noise hides the difference, not by any
  // factor.
  const double with_sums = wide.operations / wide.seconds;
  const double rate = std::clamp(more / seconds, with_sums, 4 * with_sums);
  const double sums = 2 * static_cast<double>(rows * hidden) * kChunks;  // o's and down's
  const double left = std::max(narrow.seconds - narrow.operations / rate, 0.05 * narrow.seconds);
  add_point(machine.products[static_cast<size_t>(ProductKind::order_free)], static_cast<double>(rows), rate);
  add_point(machine.chunk_sums, static_cast<double>(rows), sums / left);
}

}  // namespace

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

Curve measure_read_bandwidth(const Effort& effort) {
  Curve curve;
  ThreadPool pool(available_cores());
  for (uint64_t bytes = uint64_t{4} << 20; bytes <= effort.largest_read; bytes *= 4)
    add_point(curve, static_cast<double>(bytes), bench::ReadBandwidth(bytes).measure(pool));
  return curve;
}

void measure_ops(const Effort& effort, MachineProfile& machine) {
  OpProfile narrow_profile, wide_profile;
  const int64_t most = effort.rows.back();
  const SmallModel narrow_shape;
  SmallModel wide_shape;
  wide_shape.expert_intermediate = 1024;
  LoadedSmallModel narrow =
      load_small_model(narrow_shape, effort.instruction_set, 1, 0, most, &narrow_profile);
  LoadedSmallModel wide = load_small_model(wide_shape, effort.instruction_set, 1, 0, most, &wide_profile);
  for (const int64_t rows : effort.rows) {
    const auto x = static_cast<double>(rows);
    auto small = profile_step(narrow, narrow_profile, effort.repeats, rows, 1, 0);
    auto large = profile_step(wide, wide_profile, effort.repeats, rows, 1, 0);
    const auto rate = [](const OpTotal& op) { return op.operations / op.seconds; };
    add_point(machine.products[static_cast<size_t>(ProductKind::plain)], x, rate(large["matmul"]));
    add_point(machine.products[static_cast<size_t>(ProductKind::gated)], x, rate(large["gated_matmul"]));
    add_order_free(rows, wide_shape.hidden, small["order_free_matmul"], large["order_free_matmul"], machine);
    add_row_bandwidth(rows * wide_shape.hidden, large["add_sums"], large["rms_norm"], machine);
    add_point(machine.sampling, x, x * static_cast<double>(wide_shape.vocab) / large["sample"].seconds);
  }
  const auto attention = [&](int64_t sequences, int64_t tokens, int64_t position) {
    auto ops = profile_step(wide, wide_profile, effort.repeats, sequences, tokens, position);
    add_point(machine.attention, static_cast<double>(tokens),
              ops["attention"].operations / ops["attention"].seconds);
  };
  attention(8, 1, kDecodeContext);
  for (const int64_t tokens : {int64_t{16}, int64_t{64}, int64_t{256}}) attention(1, tokens, kDecodeContext);
}

void measure_overheads(const Effort& effort, MachineProfile& machine) {
  const SmallModel shape{.hidden = 64,
                         .layers = 8,
                         .heads = 8,
                         .head_dim = 16,
                         .expert_intermediate = 64,
                         .vocab = 64,
                         .context = 256};
  const int cores = available_cores();
  double op_seconds = 0;
  for (int threads = 1; threads <= cores; threads *= 2) {
    OpProfile profile;
    LoadedSmallModel loaded = load_small_model(shape, effort.instruction_set, 1, threads, 64, &profile);
    const auto ops = profile_step(loaded, profile, 4 * effort.repeats, 1, 1, 0);
    double seconds = 0;
    int64_t calls = 0;
    for (const auto& [name, total] : ops) {
      if (name == "sample") continue;
      seconds += total.seconds;
      calls += total.calls;
    }
    op_seconds = seconds / static_cast<double>(calls);
    add_point(machine.op_overhead, threads, op_seconds);
  }
  const double ops = static_cast<double>(shape.layers) * 10 + 8;  // as the cost model counts them
  for (const int ranks : effort.ranks) {
    const int threads = std::max(1, cores / ranks);
    LoadedSmallModel loaded = load_small_model(shape, effort.instruction_set, ranks, 0, 64, nullptr);
    std::vector<double> steps;
    for (int i = 0; i < 4 * effort.repeats + 1; ++i) steps.push_back(time_step(loaded, 1, 1, 0));
    const double turns = std::max(1.0, static_cast<double>(ranks * threads) / cores);
    const double step = median_of(std::move(steps));
    const double left = step - turns * ops * machine.op_overhead.at(threads);
    add_point(machine.step_overhead, ranks, std::max(left, 0.05 * step));
  }
}

}  // namespace chorale::calibrate
