#include "tools/prune/prune.h"

#include <algorithm>
#include <optional>
#include <span>
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

TokenizedText read_text(const std::filesystem::path& file, const char* flag,
                        const std::filesystem::path& model_path, const io::ModelConfig& config) {
  const std::string text = io::read_text_file(file, kMaxTextBytes);
  if (!is_valid_utf8(text)) throw_error("{} {}: the text is not valid UTF-8", flag, file.string());
  TokenizedText result{sha256_hex(text), load_tokenizer(model_path, config).encode(text, true)};
  for (const int32_t id : result.token_ids) {
    if (id < 0 || id >= config.vocab_size) {
      throw_error("{} {}: the tokenizer gives id {}; the model's vocabulary has ids 0 to {}", flag,
                  file.string(), id, config.vocab_size - 1);
    }
  }
  return result;
}

void check_width(const PruneVariant& variant, const io::ModelConfig& config) {
  if (variant.expert_width == 0) return;
  if (variant.method.kind != PruneMethod::Kind::fit) {
    throw_error("--expert-width: expected with --method fit alone; other methods keep the width of {}",
                config.moe_intermediate_size);
  }
  const int64_t most = config.num_experts * config.moe_intermediate_size;
  if (variant.expert_width < 1 || variant.expert_width > most) {
    throw_error("--expert-width: expected 1 to {}, the neurons of all experts, found {}", most,
                variant.expert_width);
  }
}

}  // namespace

class Pruner::Work {
 public:
  explicit Work(PruneOptions options)
      : options_(std::move(options)),
        config_(io::load_model_config(options_.model_path)),
        pool_(options_.threads),
        stream_(pool_, options_.isa) {
    if (config_.quantization.method != io::QuantizationConfig::Method::none) {
      throw_error(
          "{}: field \"quantization_config\": expected none (only models that are not quantized can be "
          "pruned), found one",
          (options_.model_path / "config.json").string());
    }
  }

  const io::ModelConfig& config() const { return config_; }

  // Returns the number of experts that each layer will have.
  int64_t check(const PruneVariant& variant) const {
    const int64_t num_experts = check_prune_method(config_, variant.method, variant.num_experts);
    check_width(variant, config_);
    if (needs_calibration(variant.method) && options_.calibration_file.empty()) {
      throw_error("--method {}: --calibration-file is required", name_of(variant.method.kind));
    }
    return num_experts;
  }

  PruneResult prune(const PruneVariant& variant, const std::filesystem::path& target, bool force) {
    check(variant);
    io::OutputFolder output(target, force, options_.model_path);
    const PruneResult result = make(variant, output.path());
    poll();
    output.commit();
    return result;
  }

  PruneResult try_out(const PruneVariant& variant, const std::filesystem::path& folder) {
    check(variant);
    const io::OutputFolder output(folder / "checkpoint", false);
    return make(variant, output.path());
  }

 private:
  // Writes the checkpoint into `folder`.
  PruneResult make(const PruneVariant& variant, const std::filesystem::path& folder) {
    const int64_t num_experts = check(variant);
    open();
    PruningRecord record;
    record.version = options_.version;
    record.method = variant.method.kind;
    record.num_experts = num_experts;
    record.num_source_experts = config_.num_experts;
    record.seed = options_.seed;
    PruneResult result{.num_experts = num_experts, .width = config_.moe_intermediate_size};
    std::span<const int32_t> token_ids;
    if (needs_calibration(variant.method)) {
      token_ids = calibration_tokens(variant.method);
      result.calibration_tokens = std::ssize(token_ids);
      record.calibration = {.file = options_.calibration_file,
                            .sha256 = calibration_->sha256,
                            .tokens = result.calibration_tokens,
                            .window = options_.window};
    }

    result.nll_before = likelihood_before();
    if (variant.method.kind == PruneMethod::Kind::fit) {
      result.width = variant.expert_width > 0 ? variant.expert_width : config_.moe_intermediate_size;
      result.weight_bytes = write_fitted(variant, token_ids, result.width, folder, record);
    } else {
      result.weight_bytes = write_selected(variant, num_experts, token_ids, folder, record);
    }
    if (result.nll_before) {
      const io::Checkpoint pruned = io::Checkpoint::open(folder);
      const io::ModelConfig config = io::load_model_config(folder);
      model::check_tensors(pruned, config);
      const EvalResult after = evaluate("Scoring the result", pruned, config);
      result.nll_after = after.nll;
      record.held_out = {.file = options_.heldout_file,
                         .sha256 = held_out_->sha256,
                         .tokens = after.tokens,
                         .window = options_.window,
                         .nll_before = *result.nll_before,
                         .nll_after = after.nll};
    }
    write_pruning_record(record, folder);
    return result;
  }

  void poll() const {
    if (options_.interruption != nullptr) options_.interruption->throw_if_requested();
  }

  ProgressBar progress(std::string label, uint64_t total, ProgressUnit unit) const {
    return {std::move(label), total, options_.show_progress, unit};
  }

  void open() {
    if (checkpoint_) return;
    io::Checkpoint checkpoint = io::Checkpoint::open(options_.model_path);
    model::check_tensors(checkpoint, config_);
    checkpoint_.emplace(std::move(checkpoint));
  }

  // Whole windows of the text's first tokens.
  std::span<const int32_t> calibration_tokens(const PruneMethod& method) {
    if (!calibration_) {
      calibration_ = read_text(options_.calibration_file, "--calibration-file", options_.model_path, config_);
    }
    int64_t tokens = std::ssize(calibration_->token_ids);
    if (options_.calibration_tokens || method.kind != PruneMethod::Kind::fit) {
      tokens = std::min(tokens, options_.calibration_tokens.value_or(kScoreTokens));
    }
    if (tokens < options_.window) {
      throw_error("--calibration-file {}: expected at least one window of {} tokens (--window), found {}",
                  options_.calibration_file.string(), options_.window, tokens);
    }
    return std::span(calibration_->token_ids)
        .first(static_cast<size_t>(tokens / options_.window * options_.window));
  }

  // The likelihood of the held-out text, in nats per token.
  EvalResult evaluate(const char* label, const io::Checkpoint& checkpoint, const io::ModelConfig& config) {
    LayerwiseModel model(checkpoint, config, options_.dtype, stream_, options_.window);
    ProgressBar bar = progress(label, static_cast<uint64_t>(config.num_hidden_layers), ProgressUnit::part);
    return evaluate_layerwise(model, held_out_->token_ids, options_.heldout_windows, [&] {
      bar.add(1);
      poll();
    });
  }

  std::optional<double> likelihood_before() {
    if (options_.heldout_file.empty()) return {};
    if (!held_out_) {
      held_out_ = read_text(options_.heldout_file, "--heldout-file", options_.model_path, config_);
    }
    if (!nll_before_) nll_before_ = evaluate("Scoring the original", *checkpoint_, config_).nll;
    return nll_before_;
  }

  // Methods that score experts all score with the same tokens.
  const std::vector<ExpertScores>& scores(std::span<const int32_t> token_ids) {
    if (scores_.empty()) {
      LayerwiseModel model(*checkpoint_, config_, options_.dtype, stream_, options_.window);
      ProgressBar bar =
          progress("Scoring experts", static_cast<uint64_t>(config_.num_hidden_layers), ProgressUnit::part);
      scores_ = calibrate(model, token_ids, true, [&] {
        bar.add(1);
        poll();
      });
    }
    return scores_;
  }

  uint64_t write_selected(const PruneVariant& variant, int64_t num_experts,
                          std::span<const int32_t> token_ids, const std::filesystem::path& folder,
                          PruningRecord& record) {
    if (needs_calibration(variant.method)) record.scores = scores(token_ids);
    const bool average = variant.method.kind == PruneMethod::Kind::average;
    const uint64_t bytes = average ? merged_weight_bytes(*checkpoint_, config_, config_.moe_intermediate_size,
                                                         expert_dtype(*checkpoint_, config_))
                                   : kept_weight_bytes(*checkpoint_, config_, num_experts);
    io::require_free_space(folder, bytes);
    ProgressBar bar = progress("Writing weights", bytes, ProgressUnit::bytes);
    const WritePrunedOptions write{.on_bytes = [&](uint64_t n) {
      bar.add(n);
      poll();
    }};
    if (average) {
      write_merged(*checkpoint_, config_, average_experts(*checkpoint_, config_, record.scores), folder,
                   write);
    } else {
      record.kept = select_experts(config_, variant.method, num_experts, record.scores);
      write_kept(*checkpoint_, config_, record.kept, folder, write);
    }
    return bytes;
  }

  uint64_t write_fitted(const PruneVariant& variant, std::span<const int32_t> token_ids, int64_t width,
                        const std::filesystem::path& folder, PruningRecord& record) {
    const DType dtype = expert_dtype(*checkpoint_, config_);
    const uint64_t bytes = merged_weight_bytes(*checkpoint_, config_, width, dtype);
    io::require_free_space(folder, bytes);
    LayerFitOptions fit{.width = width,
                        .steps = variant.fit_steps,
                        .loss = options_.fit_loss,
                        .seed = options_.seed,
                        .on_work = {}};
    ProgressBar bar = progress("Fitting layers", LayerFitter::work(config_, fit), ProgressUnit::part);
    fit.on_work = [&](uint64_t units) {
      bar.add(units);
      poll();
    };
    LayerwiseModel model(*checkpoint_, config_, options_.dtype, stream_, options_.window);
    LayerFitter fitter(model, token_ids, dtype, fit);
    write_merged(*checkpoint_, config_,
                 {.width = width, .dtype = dtype, .make = [&](int64_t layer) { return fitter.fit(layer); }},
                 folder, {.on_bytes = [&](uint64_t) { poll(); }});
    record.scores = fitter.scores();
    record.fit = {.width = width, .steps = variant.fit_steps, .relative_errors = fitter.relative_errors()};
    return bytes;
  }

  PruneOptions options_;
  io::ModelConfig config_;
  ThreadPool pool_;
  Stream stream_;
  std::optional<io::Checkpoint> checkpoint_;
  std::optional<TokenizedText> calibration_, held_out_;
  std::optional<double> nll_before_;
  std::vector<ExpertScores> scores_;
};

Pruner::Pruner(PruneOptions options) : work_(std::make_unique<Work>(std::move(options))) {}
Pruner::~Pruner() = default;

const io::ModelConfig& Pruner::config() const {
  return work_->config();
}

void Pruner::check(const PruneVariant& variant) const {
  work_->check(variant);
}

PruneResult Pruner::prune(const PruneVariant& variant, const std::filesystem::path& output, bool force) {
  return work_->prune(variant, output, force);
}

PruneResult Pruner::try_out(const PruneVariant& variant, const std::filesystem::path& folder) {
  return work_->try_out(variant, folder);
}

}  // namespace chorale::tools
