// What splitting costs on one machine: two ranks of one thread, tensor-parallel and data-parallel, beside one
// rank of two threads. The three models are in memory together and take turns, so that all see the same
// machine.
//
// Both halves of a split read and multiply as much together as the whole does alone, so the floor is the one
// rank's time; what is above it is collectives, waiting, and the smaller pieces. A data-parallel pair has
// half of the batch each. Usage: strategy_bench [--layers L --repeats N --dtype D]
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/log.h"
#include "base/thread_pool.h"
#include "engine/loaded_model.h"
#include "tools/bench/bench_step.h"
#include "tools/bench/ceilings.h"
#include "tools/bench/model_bench.h"
#include "tools/bench/presets.h"
#include "tools/machine.h"

namespace chorale::bench {
namespace {

constexpr int64_t kPrefillTokens = 512;
constexpr int64_t kBatch = 16;
constexpr int64_t kDecodeSteps = 4;
constexpr int kThreads = 2;
constexpr int64_t kBlocksOfSequence = (kPrefillTokens + kDecodeSteps) / engine::kBlockTokens + 1;

struct ModelFlags {
  int64_t layers = 12;
  std::string dtype = "bfloat16";
  std::string instruction_set = "auto";
};

struct Contender {
  const char* name;
  int dp_size;
  engine::LoadedModel model;
  std::vector<double> prefill;  // seconds
  std::vector<double> decode;
};

Contender make(const char* name, const ModelFlags& flags, int tp_size, int dp_size) {
  engine::LoadOptions options;
  options.config = preset("qwen3-30b-a3b-1e");
  options.config->num_hidden_layers = flags.layers;
  options.load_format = "dummy";
  options.dtype = flags.dtype;
  options.instruction_set = flags.instruction_set;
  options.threads = kThreads / (tp_size * dp_size);
  options.max_total_tokens = kBatch * kBlocksOfSequence * engine::kBlockTokens;
  options.max_running_requests = kBatch * dp_size;
  options.chunked_prefill_size = kPrefillTokens;
  options.show_progress = false;
  options.parallel.strategy.tp_size = tp_size;
  options.parallel.strategy.dp_size = dp_size;
  return {name, dp_size, engine::LoadedModel::load(options), {}, {}};
}

double time_prefill(Contender& c) {
  return time_step(c.model.runner(), {1, kPrefillTokens, 0, kBlocksOfSequence});
}

double median(std::vector<double> values) {
  return spread_of(std::move(values)).median;
}

void run(const ModelFlags& flags, int repeats) {
  std::vector<Contender> contenders;
  contenders.push_back(make("1 rank, 2 threads", flags, 1, 1));
  contenders.push_back(make("tp=2, 1 thread each", flags, 2, 1));
  contenders.push_back(make("dp=2, 1 thread each", flags, 1, 2));
  ThreadPool pool(kThreads);
  const ReadBandwidth bandwidth;
  std::vector<double> bandwidths;
  std::vector<double> peaks;
  const InstructionSet isa = select_instruction_set(flags.instruction_set);

  for (Contender& c : contenders) time_prefill(c);
  for (int i = 0; i < repeats; ++i) {
    bandwidths.push_back(bandwidth.measure(pool));
    peaks.push_back(peak_operations(pool, isa, WeightFormat::bf16));
    for (Contender& c : contenders) {
      c.prefill.push_back(time_prefill(c));
      const int64_t batch = kBatch / c.dp_size;
      for (int64_t step = 0; step < kDecodeSteps; ++step) {
        c.decode.push_back(time_step(c.model.runner(), {batch, 1, kPrefillTokens + step, kBlocksOfSequence}));
      }
    }
  }

  fmt::print("{}, {} threads, {}, read bandwidth {:.1f} GB/s, peak {:.0f} GFLOP/s\n",
             tools::this_machine().processor, kThreads, contenders[0].model.info().instruction_set_name(),
             median(bandwidths) / 1e9, median(peaks) / 1e9);
  fmt::print("one expert, {} layers, {}\n\n", flags.layers, contenders[0].model.info().dtype_name());
  fmt::print("{:<22} {:>18} {:>7} {:>22} {:>7}\n", "strategy", "prefill 512, tok/s", "",
             "decode batch 16, tok/s", "");
  const double prefill_one = static_cast<double>(kPrefillTokens) / median(contenders[0].prefill);
  const double decode_one = static_cast<double>(kBatch) / median(contenders[0].decode);
  for (const Contender& c : contenders) {
    // Every data-parallel group has a prompt of its own.
    const double prefill = static_cast<double>(kPrefillTokens * c.dp_size) / median(c.prefill);
    const double decode = static_cast<double>(kBatch) / median(c.decode);
    fmt::print("{:<22} {:>18.1f} {:>6.0f}% {:>22.1f} {:>6.0f}%\n", c.name, prefill,
               100 * prefill / prefill_one, decode, 100 * decode / decode_one);
  }
}

}  // namespace
}  // namespace chorale::bench

int main(int argc, char** argv) {
  chorale::bench::ModelFlags flags;
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
