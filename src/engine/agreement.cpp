#include "engine/agreement.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string_view>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "base/build_id.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "engine/memory_plan.h"
#include "io/checkpoint_digest.h"

namespace chorale::engine {
namespace {

constexpr std::chrono::milliseconds kFarewell{500};

// What requests and answers go by. Weights have their own lines.
constexpr const char* kFiles[] = {"config.json",
                                  "generation_config.json",
                                  "tokenizer.json",
                                  "tokenizer_config.json",
                                  "chat_template.jinja",
                                  "additional_chat_templates/tool_use.jinja",
                                  "model.safetensors.index.json"};

std::string joined(std::span<const Given> given) {
  std::string text;
  for (const Given& one : given) text += fmt::format("{}\t{}\n", one.what, one.value);
  return text;
}

std::vector<Given> parted(std::string_view text) {
  std::vector<Given> given;
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    const size_t tab = std::min(line.find('\t'), line.size());
    given.push_back({.what = std::string(line.substr(0, tab)),
                     .value = std::string(line.substr(std::min(tab + 1, line.size())))});
  }
  return given;
}

// Every rank's text, on all of them. Each in turn is the root of a broadcast that is awaited without a time
// limit: a rank's disk may be much slower than another's.
std::vector<std::string> gather(comm::Transport& transport, std::string_view mine) {
  std::vector<std::string> texts;
  for (int root = 0; root < transport.size(); ++root) {
    std::string text(root == transport.rank() ? mine : std::string_view());
    uint64_t size = text.size();
    transport.await_broadcast(std::as_writable_bytes(std::span(&size, 1)), root);
    text.resize(size);
    transport.await_broadcast(std::as_writable_bytes(std::span(text)), root);
    texts.push_back(std::move(text));
  }
  return texts;
}

std::string placement_of(const ParallelOptions& options) {
  if (options.init_expert_location == "trivial") return "trivial";
  return "a file, " + io::digest_of_file(options.init_expert_location);
}

std::string or_automatic(int64_t value) {
  return value == 0 ? "by itself" : std::to_string(value);
}

}  // namespace

std::vector<Given> what_was_given(const RankInputs& inputs, int threads) {
  const LoadOptions& options = inputs.options;
  const model::WeightFormats& formats = inputs.formats;
  const std::string id = build_id();
  std::vector<Given> given = {{"the program", id.empty() ? "without a build ID" : id}};
  if (!options.config) {
    for (const char* name : kFiles) given.push_back({name, io::digest_of_file(options.model_path / name)});
  }
  if (inputs.checkpoint != nullptr) {
    ThreadPool pool(threads);
    given.push_back({"the headers of the weights", io::digest_of_headers(*inputs.checkpoint)});
    given.push_back({"the weights", io::digest_of_samples(*inputs.checkpoint, pool)});
  } else {
    given.push_back({"the headers of the weights", "random weights"});
    given.push_back({"the weights", fmt::format("random ones of seed {}", options.dummy_seed)});
  }
  const ParallelOptions& parallel = options.parallel;
  given.insert(
      given.end(),
      {{"the strategy", parallel::to_string(inputs.strategy)},
       {"--max-tp-size", std::to_string(parallel.max_tp_size)},
       {"--ep-num-redundant-experts", std::to_string(parallel.num_redundant_experts)},
       {"--ep-dispatch-algorithm", parallel.dispatch_algorithm},
       {"--init-expert-location", placement_of(parallel)},
       {"--eplb-algorithm", parallel.eplb_algorithm},
       {"--enable-eplb", parallel.enable_eplb ? "given" : "not given"},
       {"--dist-timeout", fmt::format("{:g}", parallel.collective_timeout)},
       {"--collectives", parallel.collectives},
       {"--device", inputs.device.substr(0, inputs.device.find(':'))},
       {"--dtype", std::string(name_of(formats.dtype))},
       {"--quantization", std::string(formats.quantization())},
       {"--kv-cache-dtype", std::string(name_of(choose_kv_dtype(inputs.config, formats.dtype, options)))},
       {"--context-length", std::to_string(choose_context_length(inputs.config, options))},
       {"--max-total-tokens", or_automatic(options.max_total_tokens)},
       {"--chunked-prefill-size", std::to_string(options.chunked_prefill_size)},
       {"--max-running-requests", std::to_string(options.max_running_requests)},
       {"the most rows of logits", or_automatic(options.max_logits_rows)}});
  return given;
}

std::string difference(std::span<const Given> first, std::span<const Given> other) {
  const auto [mine, theirs] = std::ranges::mismatch(first, other);
  if (mine == first.end() && theirs == other.end()) return "";
  if (mine == first.end() || theirs == other.end() || mine->what != theirs->what) {
    // Only other builds list other things, and the build comes first.
    return "what ranks compare";
  }
  return fmt::format("{}: {}, rank 0 has {}", mine->what, theirs->value, mine->value);
}

void require_agreement(const comm::MpiWorld& world, std::span<const Given> given) {
  const std::vector<std::string> all = gather(*world.transport(), joined(given));
  const auto other = std::ranges::find_if(all, [&](const std::string& text) { return text != all.front(); });
  if (other == all.end()) return;
  // Whoever ends first ends the others, and mpirun loses what was printed just before.
  if (world.rank() != 0) std::this_thread::sleep_for(kFarewell);
  throw_error(
      "rank {} was given something else than rank 0: {}; all ranks need the same program, model and flags",
      other - all.begin(), difference(parted(all.front()), parted(*other)));
}

}  // namespace chorale::engine
