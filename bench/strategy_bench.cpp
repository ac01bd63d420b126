// What splitting costs on one machine: two ranks of one thread, tensor-parallel and data-parallel, beside one
// rank of two threads. The three models are in memory together and take turns, so that all see the same
// machine.
//
// Both halves of a split read and multiply as much together as the whole does alone, so the floor is the one
// rank's time; what is above it is collectives, waiting, and the smaller pieces. A data-parallel pair has
// half of the batch each. Usage: strategy_bench [--layers L --repeats N --dtype D]
#include <cstdio>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/log.h"
#include "base/thread_pool.h"
#include "bench_model.h"
#include "tools/bench/ceilings.h"

namespace chorale::bench {
namespace {

struct Contender {
  const char* name;
  ModelFlags flags;
  engine::LoadedModel model;
  std::vector<double> prefill;  // seconds
  std::vector<double> decode;
};

Contender make(const char* name, ModelFlags flags, int tp_size, int dp_size) {
  flags.tp_size = tp_size;
  flags.dp_size = dp_size;
  flags.threads = 2 / (tp_size * dp_size);
  return {name, flags, load_bench_model(flags), {}, {}};
}

void run(const ModelFlags& flags, int repeats) {
  std::vector<Contender> contenders;
  contenders.push_back(make("1 rank, 2 threads", flags, 1, 1));
  contenders.push_back(make("tp=2, 1 thread each", flags, 2, 1));
  contenders.push_back(make("dp=2, 1 thread each", flags, 1, 2));
  ThreadPool pool(2);
  const ReadBandwidth bandwidth;
  std::vector<double> bandwidths;
  std::vector<double> peaks;
  const InstructionSet isa = select_instruction_set(flags.instruction_set);

  for (Contender& c : contenders) time_step(c.model.runner(), make_step(1, kPrefillTokens, 0));
  for (int i = 0; i < repeats; ++i) {
    bandwidths.push_back(bandwidth.measure(pool));
    peaks.push_back(peak_operations(pool, isa));
    for (Contender& c : contenders) {
      c.prefill.push_back(time_step(c.model.runner(), make_step(1, kPrefillTokens, 0)));
      const int64_t batch = kMaxBatch / c.flags.dp_size;
      for (int64_t step = 0; step < 4; ++step) {
        c.decode.push_back(time_step(c.model.runner(), make_step(batch, 1, kPrefillTokens + step)));
      }
    }
  }

  fmt::print("{}, {}, read bandwidth {:.1f} GB/s, peak {:.0f} GFLOP/s\n", machine_name(2),
             contenders[0].model.instruction_set_name(), median(bandwidths) / 1e9, median(peaks) / 1e9);
  fmt::print("one expert, {} layers, {}\n\n", flags.layers, contenders[0].model.dtype_name());
  fmt::print("{:<22} {:>18} {:>7} {:>22} {:>7}\n", "strategy", "prefill 512, tok/s", "",
             "decode batch 16, tok/s", "");
  const double prefill_one = static_cast<double>(kPrefillTokens) / median(contenders[0].prefill);
  const double decode_one = static_cast<double>(kMaxBatch) / median(contenders[0].decode);
  for (const Contender& c : contenders) {
    // Every data-parallel group has a prompt of its own.
    const double prefill = static_cast<double>(kPrefillTokens * c.flags.dp_size) / median(c.prefill);
    const double decode = static_cast<double>(kMaxBatch) / median(c.decode);
    fmt::print("{:<22} {:>18.1f} {:>6.0f}% {:>22.1f} {:>6.0f}%\n", c.name, prefill,
               100 * prefill / prefill_one, decode, 100 * decode / decode_one);
  }
}

}  // namespace
}  // namespace chorale::bench

int main(int argc, char** argv) {
  chorale::bench::ModelFlags flags;
  flags.layers = 12;
  int repeats = 5;
  CLI::App app("What splitting over two ranks costs on one machine");
  app.add_option("--layers", flags.layers);
  app.add_option("--repeats", repeats)->check(CLI::Range(1, 1000));
  app.add_option("--dtype", flags.dtype);
  app.add_option("--instruction-set", flags.instruction_set);
  CLI11_PARSE(app, argc, argv);
  chorale::log::set_level(chorale::log::Level::warn);
  chorale::bench::run(flags, repeats);
}
