#include "tools/check/check.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/error.h"
#include "io/checkpoint.h"
#include "io/linear_source.h"
#include "io/model_folder.h"
#include "model/weight_loader.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "tools/chat_warning.h"
#include "tools/check/nan_scan.h"
#include "tools/load_tokenizer.h"

namespace chorale::tools {
namespace {

constexpr size_t kMaxNamedTensors = 8;  // in one message

// Runs one part of the check; what makes the files unusable becomes an error of the report.
template <typename Part>
void run_part(CheckReport& report, const Part& part) {
  try {
    part();
  } catch (const Error& error) {
    if (std::ranges::find(report.errors, error.what()) == report.errors.end())  // parts may share a file
      report.errors.emplace_back(error.what());
  }
}

void check_weights(CheckReport& report, const std::filesystem::path& directory, ThreadPool& pool) {
  const io::Checkpoint checkpoint = io::Checkpoint::open(directory);
  report.num_tensors = static_cast<int64_t>(checkpoint.tensors().size());
  report.weight_bytes = checkpoint.total_bytes();
  for (const io::TensorEntry& tensor : checkpoint.tensors()) {
    report.num_parameters +=
        io::parameters_of(tensor, report.config ? report.config->quantization : io::QuantizationConfig{});
  }
  if (report.config) model::check_tensors(checkpoint, *report.config);

  const std::vector<std::string> names = tensors_with_nan(checkpoint, pool);
  for (size_t i = 0; i < names.size() && i < kMaxNamedTensors; ++i) {
    report.warnings.push_back(fmt::format("tensor {} has NaN values", names[i]));
  }
  if (names.size() > kMaxNamedTensors) {
    report.warnings.push_back(
        fmt::format("{} more tensors have NaN values", names.size() - kMaxNamedTensors));
  }
}

void check_end_tokens(CheckReport& report, const std::filesystem::path& directory,
                      const text::Tokenizer& tokenizer) {
  if (!report.config) return;
  for (const int32_t id : end_tokens(directory, *report.config, tokenizer)) {
    report.end_tokens.push_back({id, tokenizer.token_bytes(id)});
  }
  if (report.end_tokens.empty()) {
    report.warnings.emplace_back(
        "no file names a token that ends an answer: answers go on to their greatest length, and structured "
        "output is refused");
  }
}

void check_tokenizer(CheckReport& report, const std::filesystem::path& directory) {
  check_tokenizer_files(directory);
  const text::Tokenizer tokenizer =
      report.config ? load_tokenizer(directory, *report.config) : text::Tokenizer::load(directory);
  report.tokenizer_vocab_size = tokenizer.vocab_size();
  check_end_tokens(report, directory, tokenizer);
}

void check_chat_template(CheckReport& report, const std::filesystem::path& directory) {
  const auto warning = chat_warning(text::ChatTemplate::load(directory));
  if (warning) report.warnings.push_back(*warning);
  report.has_chat_template = !warning;
}

}  // namespace

CheckReport check_checkpoint(const std::filesystem::path& directory, ThreadPool& pool) {
  CheckReport report;
  run_part(report, [&] { io::require_checkpoint_folder(directory); });
  if (!report.ok()) return report;
  run_part(report, [&] { report.config = io::load_model_config(directory); });
  if (report.config && report.config->has_dual_chunk_attention)
    report.warnings.emplace_back(io::kDualChunkAttention);
  run_part(report, [&] { io::load_generation_defaults(directory); });
  run_part(report, [&] { check_weights(report, directory, pool); });
  run_part(report, [&] { check_tokenizer(report, directory); });
  run_part(report, [&] { check_chat_template(report, directory); });
  return report;
}

}  // namespace chorale::tools
