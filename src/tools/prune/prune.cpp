#include "tools/prune/prune.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/progress_bar.h"
#include "base/sha256.h"
#include "base/thread_pool.h"
#include "io/checkpoint.h"
#include "io/file_access.h"
#include "io/output_folder.h"
#include "model/weight_loader.h"
#include "tools/load_tokenizer.h"
#include "tools/prune/calibrate.h"
#include "tools/prune/layerwise_model.h"
#include "tools/prune/merged_expert.h"
#include "tools/prune/pruning_record.h"
#include "tools/prune/write_pruned.h"

namespace chorale::tools {
namespace {

constexpr uint64_t kMaxTextBytes = uint64_t{1} << 30;

struct TokenizedText {
  std::string sha256;
  std::vector<int32_t> token_ids;
};

TokenizedText read_text(const std::filesystem::path& file, const char* flag, const PruneOptions& options,
                        const io::ModelConfig& config) {
  const std::string text = io::read_text_file(file, kMaxTextBytes);
  if (!is_valid_utf8(text)) throw_error("{} {}: the text is not valid UTF-8", flag, file.string());
  TokenizedText result{sha256_hex(text), load_tokenizer(options.model_path, config).encode(text, true)};
  for (const int32_t id : result.token_ids) {
    if (id < 0 || id >= config.vocab_size) {
      throw_error("{} {}: the tokenizer gives id {}; the model's vocabulary has ids 0 to {}", flag,
                  file.string(), id, config.vocab_size - 1);
    }
  }
  return result;
}

// Whole windows of the text's first tokens.
TokenizedText calibration_text(const PruneOptions& options, const io::ModelConfig& config) {
  TokenizedText text = read_text(options.calibration_file, "--calibration-file", options, config);
  auto tokens = static_cast<int64_t>(text.token_ids.size());
  const bool all = options.method.kind == PruneMethod::Kind::fit;
  if (options.calibration_tokens || !all) {
    tokens = std::min(tokens, options.calibration_tokens.value_or(kScoreTokens));
  }
  if (tokens < options.window) {
    throw_error("--calibration-file {}: expected at least one window of {} tokens (--window), found {}",
                options.calibration_file.string(), options.window, tokens);
  }
  text.token_ids.resize(static_cast<size_t>(tokens / options.window * options.window));
  return text;
}

void check_width(const PruneOptions& options, const io::ModelConfig& config) {
  if (options.expert_width == 0) return;
  if (options.method.kind != PruneMethod::Kind::fit) {
    throw_error("--expert-width: expected with --method fit alone; other methods keep the width of {}",
                config.moe_intermediate_size);
  }
  const int64_t most = config.num_experts * config.moe_intermediate_size;
  if (options.expert_width < 1 || options.expert_width > most) {
    throw_error("--expert-width: expected 1 to {}, the neurons of all experts, found {}", most,
                options.expert_width);
  }
}

// A pruning with what all its stages share.
class Pruning {
 public:
  explicit Pruning(const PruneOptions& options)
      : options_(options),
        config_(io::load_model_config(options.model_path)),
        num_experts_(check_prune_method(config_, options.method, options.num_experts)),
        pool_(options.threads),
        stream_(pool_, options.isa) {
    check_width(options, config_);
    if (needs_calibration(options.method) && options.calibration_file.empty()) {
      throw_error("--method {}: --calibration-file is required", name_of(options.method.kind));
    }
  }

  PruneResult run() {
    io::OutputFolder output(options_.output, options_.force, options_.model_path);
    const io::Checkpoint checkpoint = io::Checkpoint::open(options_.model_path);
    model::check_tensors(checkpoint, config_);
    record_.version = options_.version;
    record_.method = options_.method.kind;
    record_.num_experts = num_experts_;
    record_.num_source_experts = config_.num_experts;
    record_.seed = options_.seed;
    std::optional<TokenizedText> held_out;
    if (!options_.heldout_file.empty()) {
      held_out = read_text(options_.heldout_file, "--heldout-file", options_, config_);
    }
    TokenizedText calibration;
    if (needs_calibration(options_.method)) calibration = calibration_text(options_, config_);
    if (needs_calibration(options_.method)) {
      record_.calibration = {.file = options_.calibration_file,
                             .sha256 = calibration.sha256,
                             .tokens = static_cast<int64_t>(calibration.token_ids.size()),
                             .window = options_.window};
    }

    PruneResult result{.num_experts = num_experts_, .width = config_.moe_intermediate_size};
    result.calibration_tokens = static_cast<int64_t>(calibration.token_ids.size());
    if (held_out) result.nll_before = likelihood("Scoring the original", checkpoint, config_, *held_out);
    if (options_.method.kind == PruneMethod::Kind::fit) {
      result.width = options_.expert_width > 0 ? options_.expert_width : config_.moe_intermediate_size;
      result.weight_bytes = write_fitted(checkpoint, calibration.token_ids, result.width, output.path());
    } else {
      result.weight_bytes = write_selected(checkpoint, calibration.token_ids, output.path());
    }
    if (held_out) {
      const io::Checkpoint pruned = io::Checkpoint::open(output.path());
      const io::ModelConfig config = io::load_model_config(output.path());
      model::check_tensors(pruned, config);
      result.nll_after = likelihood("Scoring the result", pruned, config, *held_out);
      record_.held_out = {.file = options_.heldout_file,
                          .sha256 = held_out->sha256,
                          .tokens = scored_tokens_,
                          .window = options_.window,
                          .nll_before = *result.nll_before,
                          .nll_after = *result.nll_after};
    }
    write_pruning_record(record_, output.path());
    poll();
    output.commit();
    return result;
  }

 private:
  void poll() const {
    if (options_.interruption != nullptr) options_.interruption->throw_if_requested();
  }

  ProgressBar progress(std::string label, uint64_t total, ProgressUnit unit) const {
    return {std::move(label), total, options_.show_progress, unit};
  }

  double likelihood(const char* label, const io::Checkpoint& checkpoint, const io::ModelConfig& config,
                    const TokenizedText& text) {
    LayerwiseModel model(checkpoint, config, options_.dtype, stream_, options_.window);
    ProgressBar bar = progress(label, static_cast<uint64_t>(config.num_hidden_layers), ProgressUnit::part);
    const EvalResult result = evaluate_layerwise(model, text.token_ids, options_.heldout_windows, [&] {
      bar.add(1);
      poll();
    });
    scored_tokens_ = result.tokens;
    return result.nll;
  }

  std::vector<ExpertScores> score_experts(const io::Checkpoint& checkpoint,
                                          const std::vector<int32_t>& token_ids) const {
    if (!needs_calibration(options_.method)) return {};
    LayerwiseModel model(checkpoint, config_, options_.dtype, stream_, options_.window);
    ProgressBar bar =
        progress("Scoring experts", static_cast<uint64_t>(config_.num_hidden_layers), ProgressUnit::part);
    return calibrate(model, token_ids, true, [&] {
      bar.add(1);
      poll();
    });
  }

  uint64_t write_selected(const io::Checkpoint& checkpoint, const std::vector<int32_t>& token_ids,
                          const std::filesystem::path& folder) {
    record_.scores = score_experts(checkpoint, token_ids);
    const bool average = options_.method.kind == PruneMethod::Kind::average;
    const uint64_t bytes = average ? merged_weight_bytes(checkpoint, config_, config_.moe_intermediate_size,
                                                         expert_dtype(checkpoint, config_))
                                   : kept_weight_bytes(checkpoint, config_, num_experts_);
    io::require_free_space(folder, bytes);
    ProgressBar bar = progress("Writing weights", bytes, ProgressUnit::bytes);
    const WritePrunedOptions write{.on_bytes = [&](uint64_t n) {
      bar.add(n);
      poll();
    }};
    if (average) {
      write_merged(checkpoint, config_, average_experts(checkpoint, config_, record_.scores), folder, write);
    } else {
      record_.kept = select_experts(config_, options_.method, num_experts_, record_.scores);
      write_kept(checkpoint, config_, record_.kept, folder, write);
    }
    return bytes;
  }

  uint64_t write_fitted(const io::Checkpoint& checkpoint, const std::vector<int32_t>& token_ids,
                        int64_t width, const std::filesystem::path& folder) {
    const DType dtype = expert_dtype(checkpoint, config_);
    const uint64_t bytes = merged_weight_bytes(checkpoint, config_, width, dtype);
    io::require_free_space(folder, bytes);
    LayerFitOptions fit{.width = width,
                        .steps = options_.fit_steps,
                        .loss = options_.fit_loss,
                        .seed = options_.seed,
                        .on_work = {}};
    ProgressBar bar = progress("Fitting layers", LayerFitter::work(config_, fit), ProgressUnit::part);
    fit.on_work = [&](uint64_t units) {
      bar.add(units);
      poll();
    };
    LayerwiseModel model(checkpoint, config_, options_.dtype, stream_, options_.window);
    LayerFitter fitter(model, token_ids, dtype, fit);
    write_merged(checkpoint, config_,
                 {.width = width, .dtype = dtype, .make = [&](int64_t layer) { return fitter.fit(layer); }},
                 folder, {.on_bytes = [&](uint64_t) { poll(); }});
    record_.scores = fitter.scores();
    record_.fit = {.width = width, .steps = options_.fit_steps, .relative_errors = fitter.relative_errors()};
    return bytes;
  }

  const PruneOptions& options_;
  io::ModelConfig config_;
  int64_t num_experts_;
  ThreadPool pool_;
  Stream stream_;
  PruningRecord record_;
  int64_t scored_tokens_ = 0;
};

}  // namespace

PruneResult prune(const PruneOptions& options) {
  return Pruning(options).run();
}

}  // namespace chorale::tools
