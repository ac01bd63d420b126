// What the benchmarks of kernels share: GB/s of the bytes that a kernel must move, Gop/s of the operations
// that it must do, the machine's ceilings, measured just before, and the fraction of the nearer one that it
// reaches.
#pragma once

#include <benchmark/benchmark.h>

#include "base/op_profile.h"
#include "base/stream.h"
#include "base/thread_pool.h"
#include "tools/bench/ceilings.h"
#include "tools/bench/floor.h"

namespace chorale::bench {

// What all benchmarks share. The ceilings are measured before each.
struct Machine {
  ThreadPool pool{available_cores()};
  InstructionSet isa = select_instruction_set("auto");
  OpProfile profile;
  Stream stream{pool, isa, &profile};
  ReadBandwidth bandwidth;
};

inline Machine& machine() {
  static Machine instance;  // a program of its own, not part of the server
  return instance;
}

// What one call of the op says of its own work.
template <typename Op>
OpWork work_of(const Op& op) {
  OpProfile& profile = machine().profile;
  profile.start();
  op();
  profile.stop();
  OpWork work;
  for (const OpRecord& record : profile.records()) {
    work.bytes += record.work.bytes;
    work.operations += record.work.operations;
  }
  return work;
}

// Times the op beside the ceilings. `work` is that of one call.
template <typename Op>
void measure(benchmark::State& state, WeightFormat format, const OpWork& work, const Op& op) {
  Machine& m = machine();
  const Ceilings ceilings{m.bandwidth.measure(m.pool), peak_operations(m.pool, m.isa, format)};
  for (auto _ : state) op();
  const auto per_second = [&](double amount) {
    return benchmark::Counter(amount * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  };
  state.counters["GB/s"] = per_second(work.bytes);
  state.counters["Gop/s"] = per_second(work.operations);
  state.counters["of_ceiling"] =
      benchmark::Counter(floor_seconds(work, ceilings), benchmark::Counter::kIsIterationInvariantRate);
  state.counters["ceiling_GB/s"] = ceilings.read_bandwidth * 1e-9;
  state.counters["ceiling_Gop/s"] = ceilings.peak_operations * 1e-9;
}

template <typename Op>
void measure(benchmark::State& state, WeightFormat format, const Op& op) {
  measure(state, format, work_of(op), op);
}

}  // namespace chorale::bench
