#include "tools/prune/pruning_record.h"

#include <algorithm>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/pending_file.h"

namespace chorale::tools {
namespace {

using nlohmann::ordered_json;

std::string file_name(const std::filesystem::path& file) {
  return file.filename().string();
}

ordered_json calibration_json(const PruningRecord::Calibration& calibration) {
  return {{"file", file_name(calibration.file)},
          {"sha256", calibration.sha256},
          {"tokens", calibration.tokens},
          {"window", calibration.window}};
}

ordered_json held_out_json(const PruningRecord::HeldOut& held_out) {
  return {{"file", file_name(held_out.file)},  {"sha256", held_out.sha256},
          {"tokens", held_out.tokens},         {"window", held_out.window},
          {"nll_before", held_out.nll_before}, {"nll_after", held_out.nll_after}};
}

// A line per layer: what was kept, and what it was chosen by.
ordered_json layers_json(const PruningRecord& record) {
  ordered_json layers = ordered_json::array();
  for (size_t i = 0; i < std::max(record.scores.size(), record.kept.size()); ++i) {
    ordered_json layer = {{"layer", i}};
    if (!record.kept.empty()) layer["kept"] = record.kept.at(i);
    if (!record.scores.empty()) {
      const ExpertScores& scores = record.scores.at(i);
      layer["tokens"] = scores.tokens;
      layer["gate_weight"] = scores.gate_weight;
      layer["reap"] = scores.reap;
    }
    layers.push_back(std::move(layer));
  }
  return layers;
}

std::string replaced_text(const ordered_json& value) {  // a file's name need not be UTF-8
  return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

std::string lines_of(const ordered_json& array) {
  if (array.empty()) return "[]";
  std::string text = "[";
  for (const ordered_json& value : array)
    text += (text.size() > 1 ? ",\n    " : "\n    ") + replaced_text(value);
  return text + "\n  ]";
}

}  // namespace

std::string pruning_json(const PruningRecord& record) {
  ordered_json fields = {{"chorale_version", record.version},
                         {"method", name_of(record.method)},
                         {"num_experts", record.num_experts},
                         {"num_source_experts", record.num_source_experts},
                         {"seed", record.seed}};
  if (record.calibration) fields["calibration"] = calibration_json(*record.calibration);
  if (record.held_out) fields["held_out"] = held_out_json(*record.held_out);
  if (record.fit) {
    fields["fit"] = {{"width", record.fit->width},
                     {"steps", record.fit->steps},
                     {"relative_errors", record.fit->relative_errors}};
  }
  fields["layers"] = layers_json(record);

  std::string text = "{";
  for (const auto& [name, value] : fields.items()) {
    text += fmt::format("{}\n  \"{}\": {}", text.size() > 1 ? "," : "", name,
                        value.is_array() ? lines_of(value) : replaced_text(value));
  }
  return text + "\n}\n";
}

void write_pruning_record(const PruningRecord& record, const std::filesystem::path& folder) {
  io::write_text_file(folder / "pruning.json", pruning_json(record));
}

}  // namespace chorale::tools
