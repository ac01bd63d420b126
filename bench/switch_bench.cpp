// What moves while requests run, and what that costs: the pause of a switch to another strategy, beside the
// bound of 20 ms and the KV cache's bytes over a quarter of the bandwidth that is measured in the same run;
// and the throughput of a model whose experts dominate, under a load of few experts, before and after they
// move.
//
//   switch_bench [--requests 16] [--context 1024] [--rounds 3] [--threads 2]
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "engine/engine.h"
#include "engine/loaded_model.h"
#include "engine/strategy_switch.h"
#include "parallel/strategy.h"
#include "tools/bench/ceilings.h"
#include "tools/bench/model_bench.h"
#include "tools/machine.h"

namespace chorale::bench {
namespace {

struct Sizes {
  int64_t requests = 16;
  int64_t context = 1024;
  int rounds = 3;
  int threads = 2;
};

io::ModelConfig shape(int64_t layers, int64_t experts, int64_t expert_width) {
  io::ModelConfig c;
  c.architecture = "Qwen3MoeForCausalLM";
  c.model_type = "qwen3_moe";
  c.vocab_size = 4096;
  c.hidden_size = 512;
  c.intermediate_size = 512;
  c.num_hidden_layers = layers;
  c.num_attention_heads = 8;
  c.num_key_value_heads = 4;
  c.head_dim = 64;
  c.moe_intermediate_size = expert_width;
  c.num_experts = experts;
  c.num_experts_per_tok = 2;
  c.norm_topk_prob = true;
  c.max_position_embeddings = 32768;
  return c;
}

engine::LoadOptions load_options(const io::ModelConfig& config, const std::string& strategy,
                                 const Sizes& sizes) {
  const parallel::Strategy s = parallel::parse_strategy(strategy);
  engine::LoadOptions options;
  options.config = config;
  options.load_format = "dummy";
  options.device = "cpu";
  options.threads = std::max(1, sizes.threads / s.world());
  options.max_total_tokens = sizes.requests * (sizes.context + 4096);
  options.max_running_requests = sizes.requests;
  options.show_progress = false;
  options.parallel.communicator = "local";
  options.parallel.strategy.tp_size = s.tp_size;
  options.parallel.strategy.dp_size = s.dp_size;
  options.parallel.strategy.ep_size = s.ep_size;
  options.parallel.strategy.moe_tp_size = s.moe_tp_size;
  options.parallel.strategy.moe_dp_size = s.moe_dp_size;
  return options;
}

engine::EngineOptions engine_options(const engine::LoadedModel& model, const engine::LoadOptions& load) {
  engine::EngineOptions options;
  options.max_total_tokens = model.info().max_total_tokens;
  options.max_context_len = model.info().max_context_len;
  options.chunked_prefill_size = load.chunked_prefill_size;
  options.max_running_requests = load.max_running_requests;
  options.enable_prefix_cache = false;
  return options;
}

engine::GenerationRequest request_of(int64_t number, std::vector<int32_t> prompt, int64_t new_tokens) {
  engine::GenerationRequest request;
  request.id = fmt::format("r{}", number);
  request.prompt_ids = std::move(prompt);
  request.sampling.max_new_tokens = new_tokens;
  request.sampling.temperature = 0;
  request.sampling.ignore_eos = true;
  return request;
}

void submit(engine::Engine& engine, engine::GenerationRequest request, engine::EventListener listener) {
  if (const auto error = engine.submit(std::move(request), std::move(listener)))
    throw_error("a request is refused: {}", error->message);
}

engine::StrategyChange change_to(engine::StrategySwitch& strategy_switch, const std::string& strategy) {
  const auto told = std::make_shared<std::promise<engine::StrategyChange>>();
  strategy_switch.start(strategy, [told](const engine::StrategyChange& change) { told->set_value(change); });
  engine::StrategyChange change = told->get_future().get();
  if (change.result.error) throw_error("{}: {}", strategy, *change.result.error);
  return change;
}

// All requests decode while the strategy changes.
void measure_switches(const Sizes& sizes) {
  const engine::LoadOptions load = load_options(shape(12, 16, 128), "tp=1", sizes);
  engine::LoadedModel model = engine::LoadedModel::load(load);
  ThreadPool pool(sizes.threads);
  const ReadBandwidth bandwidth;
  engine::Engine engine(model.runner(), engine_options(model, load));
  engine::StrategySwitch strategy_switch(model, engine);
  std::atomic<int64_t> begun = 0;
  for (int64_t i = 0; i < sizes.requests; ++i) {
    std::vector<int32_t> prompt;
    for (int64_t t = 0; t < sizes.context; ++t) prompt.push_back(static_cast<int32_t>((t * 31 + i) % 4000));
    submit(engine, request_of(i, std::move(prompt), 4096),
           [&begun, is_first = true](const engine::GenerationEvent&) mutable {
             if (std::exchange(is_first, false)) begun.fetch_add(1);
           });
  }
  while (begun < sizes.requests) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  fmt::print("{} requests of {} tokens\n{:<28} {:>8} {:>10} {:>10} {:>10}  {}\n", sizes.requests,
             sizes.context, "switch to", "KV, MB", "pause, ms", "bound, ms", "made, ms",
             "read bandwidth, GB/s");
  for (int round = 0; round < sizes.rounds; ++round) {
    for (const char* strategy : {"tp=2", "dp=2,ep=2", "tp=4", "tp=2,dp=2,ep=4", "tp=1"}) {
      const engine::StrategyChange change = change_to(strategy_switch, strategy);
      const double read = bandwidth.measure(pool);
      const auto bytes = static_cast<double>(change.result.moved_bytes);
      fmt::print("{:<28} {:>8.1f} {:>10.2f} {:>10.2f} {:>10.1f}  {:.1f}\n", strategy, bytes / 1e6,
                 change.result.pause_seconds * 1e3, 20 + bytes / (read / 4) * 1e3,
                 change.prepare_seconds * 1e3, read / 1e9);
      std::fflush(stdout);
    }
  }
  for (int64_t i = 0; i < sizes.requests; ++i) engine.abort(fmt::format("r{}", i));
  engine.wait_idle(60);
}

// Prompts of one token each, again and again: its experts have all the work. Seconds.
double run_prompts(engine::Engine& engine, int32_t token, int64_t requests, int64_t tokens) {
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < requests; ++i) {
    submit(engine, request_of(i, std::vector<int32_t>(static_cast<size_t>(tokens), token), 1),
           [](const engine::GenerationEvent&) {});
  }
  if (!engine.wait_idle(600)) throw_error("requests do not end");
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<int64_t> expert_load(engine::Engine& engine) {
  const auto told = std::make_shared<std::promise<std::vector<int64_t>>>();
  engine.get_expert_load([told](std::vector<int64_t> load) { told->set_value(std::move(load)); });
  return told->get_future().get();
}

// Work of the busiest rank over that of the mean one, on average over the layers.
double imbalance(const parallel::ExpertPlacement& placement, const std::vector<int64_t>& before,
                 const std::vector<int64_t>& after) {
  const auto experts = static_cast<size_t>(placement.num_experts());
  double sum = 0;
  for (size_t layer = 0; layer < static_cast<size_t>(placement.num_layers()); ++layer) {
    std::vector<double> load;
    for (size_t e = layer * experts; e < (layer + 1) * experts; ++e)
      load.push_back(static_cast<double>(after[e] - before[e]));
    sum += placement.imbalance(static_cast<int>(layer), load);
  }
  return sum / placement.num_layers();
}

double median_seconds(engine::Engine& engine, int32_t token, const Sizes& sizes) {
  std::vector<double> seconds;
  for (int round = 0; round < std::max(sizes.rounds, 3); ++round)
    seconds.push_back(run_prompts(engine, token, sizes.requests, 256));
  return spread_of(std::move(seconds)).median;
}

// The token whose experts lie most on one rank.
int32_t skewed_token(engine::Engine& engine, const parallel::ExpertPlacement& placement) {
  std::pair<double, int32_t> most{0, 0};
  std::vector<int64_t> before = expert_load(engine);
  for (int32_t token = 0; token < 64; ++token) {
    run_prompts(engine, token, 1, 16);
    std::vector<int64_t> after = expert_load(engine);
    most = std::max(most, {imbalance(placement, before, after), token});
    before = std::move(after);
  }
  return most.second;
}

void measure_experts(const Sizes& sizes) {
  engine::LoadOptions load = load_options(shape(4, 32, 1024), "dp=2,ep=2", sizes);
  load.parallel.enable_eplb = true;
  engine::LoadedModel model = engine::LoadedModel::load(load);
  engine::Engine engine(model.runner(), engine_options(model, load));
  const parallel::ExpertPlacement first = *model.runner().movable_experts();
  const int32_t token = skewed_token(engine, first);
  const std::vector<int64_t> begin = expert_load(engine);
  const double before = median_seconds(engine, token, sizes);
  const double first_imbalance = imbalance(first, begin, expert_load(engine));

  const auto told = std::make_shared<std::promise<engine::ExpertMoves>>();
  engine.rebalance_experts([told](const engine::RebalanceResult* result) {
    told->set_value(result != nullptr ? result->moves : engine::ExpertMoves{});
  });
  const engine::ExpertMoves moves = told->get_future().get();
  const std::vector<int64_t> middle = expert_load(engine);
  const double after = median_seconds(engine, token, sizes);
  const parallel::ExpertPlacement moved = engine.stats().experts->placement;
  const double next_imbalance = imbalance(moved, middle, expert_load(engine));
  const auto tokens = static_cast<double>(sizes.requests * 256);
  fmt::print("\n{:<28} {:>12} {:>16}\n", "prompts of few experts", "tokens/s", "busiest / mean");
  fmt::print("{:<28} {:>12.0f} {:>16.2f}\n", "as experts lay", tokens / before, first_imbalance);
  fmt::print("{:<28} {:>12.0f} {:>16.2f}\n", "once they had moved", tokens / after, next_imbalance);
  fmt::print("{} layers moved, {} slots, {} bytes, {:.3f} ms in all\n", moves.layers, moves.slots,
             moves.bytes, moves.seconds * 1e3);
}

}  // namespace
}  // namespace chorale::bench

int main(int argc, char** argv) {
  chorale::bench::Sizes sizes;
  CLI::App app("What a switch of the strategy, and experts that move, cost while requests run");
  app.add_option("--requests", sizes.requests)->check(CLI::Range(1, 256));
  app.add_option("--context", sizes.context)->check(CLI::Range(16, 16384));
  app.add_option("--rounds", sizes.rounds)->check(CLI::Range(1, 1000));
  app.add_option("--threads", sizes.threads)->check(CLI::Range(1, 1024));
  CLI11_PARSE(app, argc, argv);
  chorale::log::set_level(chorale::log::Level::warn);
  fmt::print("{}, {} threads\n", chorale::tools::this_machine().processor, sizes.threads);
  try {
    chorale::bench::measure_switches(sizes);
    chorale::bench::measure_experts(sizes);
  } catch (const chorale::Error& error) {
    fmt::print(stderr, "switch_bench: {}\n", error.what());
    return 1;
  }
  return 0;
}
