#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "apps/command.h"
#include "apps/foreign_flags.h"
#include "io/model_folder.h"

namespace chorale::apps {
namespace {

constexpr const char* kModel = "Model";
constexpr const char* kModelDescription =
    "Folder of a Hugging Face checkpoint, or the name of a model that the Hugging Face cache here has";
constexpr const char* kExecution = "Execution";
constexpr const char* kParallel = "Parallel strategy";
constexpr int64_t kMaxTokens = int64_t{1} << 40;

engine::InjectedFault parse_fault(const std::string& text) {
  engine::InjectedFault fault;
  int length = 0;
  long step = 0;
  const int found = std::sscanf(text.c_str(), "%d:%ld%n", &fault.rank, &step, &length);
  const std::string rest = found == 2 ? text.substr(static_cast<size_t>(length)) : "?";
  if (!rest.empty() && rest != ":hang") {
    throw CLI::ValidationError("--inject-fault", "expected RANK:STEP or RANK:STEP:hang, found " + text);
  }
  fault.step = step;
  if (!rest.empty()) fault.kind = DeviceFault::hang;
  return fault;
}

// The sizes of a strategy.
void add_strategy_sizes(CLI::App& app, parallel::StrategyFlags& strategy) {
  const auto add_size = [&](const char* name, std::optional<int>& value, const char* text) {
    app.add_option(name, value, text)->option_text("N")->group(kParallel);
  };
  add_size("--tp-size,--tensor-parallel-size", strategy.tp_size,
           "Ranks that share a batch and split heads (1)");
  add_size("--dp-size,--data-parallel-size", strategy.dp_size,
           "Groups of such ranks, each with its own batch (1)");
  add_size("--ep-size,--expert-parallel-size", strategy.ep_size, "Ranks that own different experts (1)");
  app.add_flag("--enable-ep-moe", strategy.enable_ep_moe,
               "Expert parallel; without --ep-size over --tp-size ranks")
      ->group(kParallel);
  add_size("--moe-tp-size", strategy.moe_tp_size,
           "Ranks that split each expert; default: those that are left");
  add_size("--moe-dp-size", strategy.moe_dp_size,
           "Replicas of all experts, for different tokens; default: --dp-size while --ep-size <= --tp-size, "
           "else 1");
}

}  // namespace

void add_model_path(CLI::App& app, std::filesystem::path& path, ModelArgument argument) {
  const bool required = argument == ModelArgument::required;
  app.add_option(with_aliases("--model-path"), path, kModelDescription)
      ->option_text("DIR|ORG/NAME")
      ->group(kModel);
  const auto revision = add_revision_flag(app);
  const auto folder = std::make_shared<std::string>();
  if (required)
    app.add_option("DIR", *folder, fmt::format("{}; or --model-path", kModelDescription))->option_text(" ");
  app.callback([&path, folder, revision, required] {
    if (!folder->empty() && !path.empty()) {
      throw CLI::ValidationError(
          "--model-path", fmt::format("the model is given twice, as {} and as {}", path.string(), *folder));
    }
    if (!folder->empty()) path = *folder;
    if (path.empty() && required) throw CLI::RequiredError("--model-path");
    if (!path.empty()) path = io::checkpoint_folder(path, *revision);
  });
}

std::shared_ptr<const std::string> add_revision_flag(CLI::App& app) {
  auto revision = std::make_shared<std::string>();
  app.add_option("--revision", *revision,
                 "Of a model by its name: a branch, a tag or a commit in the cache (main)")
      ->option_text("REV")
      ->group(kModel);
  return revision;
}

void add_model_flags(CLI::App& app, engine::LoadOptions& options, ModelArgument argument) {
  add_model_path(app, options.model_path, argument);
  app.add_option("--load-format", options.load_format,
                 "auto: the checkpoint's files; dummy: seeded random weights")
      ->option_text("auto|dummy")
      ->check(CLI::IsMember({"auto", "dummy"}))
      ->group(kModel);
  app.add_option("--device", options.device,
                 "Where the model runs: cuda: an NVIDIA GPU, the first one unless a number is given; auto: a "
                 "GPU where "
                 "this build and the machine have one, else the CPU; ref: the slow reference that tests use")
      ->option_text("auto|cpu|cuda[:N]|ref")
      ->group(kModel);
  app.add_option("--dtype", options.dtype, "Type of computation; auto is bfloat16")
      ->option_text("auto|bfloat16|float32")
      ->check(CLI::IsMember({"auto", "bfloat16", "float32"}))
      ->group(kModel);
  app.add_option(
         "--quantization", options.quantization,
         "Weights: auto: as the checkpoint is; none: as --dtype; int8, int4: made while they are loaded, "
         "router, norms and embedding stay; fp8, gptq, awq: auto, for such a checkpoint alone")
      ->option_text("auto|none|int8|int4|fp8|gptq|awq")
      ->check(CLI::IsMember({"auto", "none", "int8", "int4", "fp8", "gptq", "awq"}))
      ->group(kModel);
  app.add_option(
         "--kv-cache-dtype", options.kv_cache_dtype,
         "Type of the KV cache; auto is that of the computation; int8 takes half of bfloat16's memory")
      ->option_text("auto|bfloat16|int8")
      ->check(CLI::IsMember({"auto", "bfloat16", "bf16", "int8"}))
      ->group(kModel);
  app.add_option(with_aliases("--context-length"), options.context_length,
                 "Most tokens of one sequence; 0: the model's max_position_embeddings")
      ->option_text("N")
      ->check(CLI::Range(int64_t{0}, kMaxTokens))
      ->group(kModel);
}

void add_execution_flags(CLI::App& app, engine::LoadOptions& options) {
  app.add_option("--threads,--threads-per-rank", options.threads,
                 "Threads of each rank; 0: the cores this process may use, shared by its ranks")
      ->option_text("N")
      ->check(CLI::Range(0, 1024))
      ->group(kExecution);
  app.add_option("--instruction-set", options.instruction_set,
                 "Vector instructions; auto: the most capable set there is")
      ->option_text("auto|avx512_bf16|avx512|avx2|portable")
      ->check(CLI::IsMember({"auto", "avx512_bf16", "avx512", "avx2", "portable"}))
      ->group(kExecution);
  app.add_flag("--disable-cuda-graph{false}", options.records_steps,
               "Start each op of a decode step by itself on a GPU; slower, the same results")
      ->group(kExecution);
}

namespace {

void add_gpu_flags(CLI::App& app, engine::LoadOptions& options) {
  app.add_option("--gpus", options.parallel.gpus,
                 "With --device cuda: the GPUs that ranks have, by number, in this order; those that "
                 "CUDA_VISIBLE_DEVICES "
                 "leaves unless given")
      ->option_text("N,N,...")
      ->delimiter(',')
      ->check(CLI::Range(0, 1023))
      ->group(kParallel);
  app.add_option(
         "--ranks-per-gpu", options.parallel.ranks_per_gpu,
         "Ranks that share each GPU (1); more than one to try a strategy that there are too few GPUs for")
      ->option_text("N")
      ->check(CLI::Range(1, 1024))
      ->group(kParallel);
  app.add_option("--collectives", options.parallel.collectives,
                 "How GPUs exchange data: peer: kernels read each other's memory; nccl: NCCL, from "
                 "CHORALE_NCCL or where "
                 "libraries are; host: through the host's memory, slow; auto: the first that works. It never "
                 "changes a result")
      ->option_text("auto|peer|nccl|host")
      ->check(CLI::IsMember({"auto", "peer", "nccl", "host"}))
      ->group(kParallel);
}

}  // namespace

void add_parallel_flags(CLI::App& app, engine::LoadOptions& options) {
  parallel::StrategyFlags& strategy = options.parallel.strategy;
  add_strategy_sizes(app, strategy);
  app.add_option(
         "--max-tp-size", options.parallel.max_tp_size,
         "Results are the same for up to so many ranks that split a matrix (8); fewer is faster where "
         "prompts are long, on a GPU above all, and gives other results")
      ->option_text("1|2|4|8")
      ->check(CLI::IsMember({1, 2, 4, 8}))
      ->group(kParallel);
  app.add_option("--single-expert-mode", strategy.single_expert_mode,
                 "For a one-expert model: dp gives every rank the expert, tp splits it")
      ->option_text("dp|tp")
      ->envname("SINGLE_EXPERT_MODE")
      ->group(kParallel);
  app.add_flag(
         "--enable-dp-attention", strategy.enable_dp_attention,
         "Sizes as in SGLang: --tp-size is all ranks, attention is split over tp_size / dp_size of them")
      ->group(kParallel);
  app.add_option("--ep-num-redundant-experts", options.parallel.num_redundant_experts,
                 "Slots for replicas of experts, beyond one for each (0)")
      ->option_text("N")
      ->check(CLI::Range(0, 65536))
      ->group(kParallel);
  app.add_option("--ep-dispatch-algorithm", options.parallel.dispatch_algorithm,
                 "Which replica gets a token: static: the nearest; dynamic: all in turn")
      ->option_text("static|dynamic")
      ->check(CLI::IsMember({"static", "dynamic"}))
      ->group(kParallel);
  app.add_option("--init-expert-location", options.parallel.init_expert_location,
                 "trivial, or a JSON file with physical_to_logical_map or logical_count")
      ->option_text("trivial|FILE")
      ->group(kParallel);
  app.add_option("--eplb-algorithm", options.parallel.eplb_algorithm,
                 "How logical_count becomes a placement (auto)")
      ->option_text("auto|hierarchical|global")
      ->check(CLI::IsMember({"auto", "hierarchical", "global"}))
      ->group(kParallel);
  app.add_option("--communicator", options.parallel.communicator,
                 "local: ranks are threads; mpi: ranks are processes; auto: mpi under an MPI launcher")
      ->option_text("auto|local|mpi")
      ->check(CLI::IsMember({"auto", "local", "mpi"}))
      ->group(kParallel);
  add_gpu_flags(app, options);
  app.add_option("--dist-timeout", options.parallel.collective_timeout,
                 "Seconds that a rank may keep the others waiting before the server ends (10); 0: for ever")
      ->option_text("SECONDS")
      ->check(number_in(0, 86400))
      ->group(kParallel);
  app.add_option_function<std::string>(
         "--inject-fault",
         [&options](const std::string& text) { options.parallel.fault = parse_fault(text); },
         "For tests: this rank's device fails, or hangs, at the start of this step")
      ->option_text("RANK:STEP[:hang]")
      ->group("");  // not in the help
}

void add_chat_template_flag(CLI::App& app, std::filesystem::path& file) {
  app.add_option(with_aliases("--chat-template"), file, "Jinja file in place of the model's chat template")
      ->option_text("FILE")
      ->group(kModel);
}

CLI::Option* add_chunk_flag(CLI::App& app, engine::LoadOptions& options) {
  return app
      .add_option("--chunked-prefill-size", options.chunked_prefill_size,
                  "Most prompt tokens that one step computes; it never changes a result (512)")
      ->option_text("N")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
}

CLI::Option* add_log_level_flag(CLI::App& app, std::string& level) {
  return app.add_option("--log-level", level, "Least severe messages to log, on standard error")
      ->option_text("debug|info|warn|error|critical|off")
      ->check(CLI::IsMember({"debug", "info", "warn", "error", "critical", "off"}));
}

std::function<std::string(const std::string&)> number_in(double least, double most) {
  return [least, most](const std::string& text) {
    double number = 0;
    const bool fits = CLI::detail::lexical_cast(text, number) && number >= least && number <= most;
    return fits ? std::string() : fmt::format("Value {} not in range [{} - {}]", text, least, most);
  };
}

CLI::Option* add_json_flag(CLI::App& app, bool& json) {
  return app.add_flag("--json", json, "Print one JSON object, for machines")->group("Output");
}

}  // namespace chorale::apps
