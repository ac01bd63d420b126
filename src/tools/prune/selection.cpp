#include "tools/prune/selection.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "io/file_access.h"
#include "io/json_reader.h"

namespace chorale::tools {
namespace {

using Kind = PruneMethod::Kind;

constexpr uint64_t kMaxListBytes = uint64_t{16} << 20;
constexpr std::string_view kListPrefix = "list:";
constexpr std::array<std::pair<std::string_view, Kind>, 7> kNames = {{{"first", Kind::first},
                                                                      {"list", Kind::list},
                                                                      {"frequency", Kind::frequency},
                                                                      {"reap", Kind::reap},
                                                                      {"router", Kind::router},
                                                                      {"average", Kind::average},
                                                                      {"fit", Kind::fit}}};

int32_t parse_expert(std::string_view text, std::string_view method) {
  int32_t expert = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), expert);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw_error("--method {}: expected numbers of experts with commas between them, found {}", method,
                io::quote(text));
  }
  return expert;
}

std::vector<int32_t> parse_list(std::string_view text, std::string_view method) {
  std::vector<int32_t> experts;
  while (true) {
    const size_t comma = text.find(',');
    experts.push_back(parse_expert(text.substr(0, comma), method));
    if (comma == std::string_view::npos) return experts;
    text.remove_prefix(comma + 1);
  }
}

std::vector<int32_t> read_layer(const nlohmann::json& layer, size_t index, const std::string& file) {
  std::vector<int32_t> experts;
  if (layer.is_null()) return experts;
  if (!layer.is_array()) {
    throw_error("{}: layer {}: expected an array of experts, found {}", file, index, io::describe(layer));
  }
  for (const nlohmann::json& expert : layer) {
    // Beyond what int32_t holds no expert exists, so the range need not be told apart.
    if (!expert.is_number_integer() || expert.get<double>() < -1e9 || expert.get<double>() > 1e9) {
      throw_error("{}: layer {}: expected numbers of experts, found {}", file, index, io::describe(expert));
    }
    experts.push_back(expert.get<int32_t>());
  }
  return experts;
}

PruneMethod read_list_file(std::string_view file) {
  PruneMethod method{.kind = Kind::list, .file = std::string(file)};
  const nlohmann::json layers =
      io::parse_json_array(io::read_text_file(method.file, kMaxListBytes), method.file);
  for (size_t i = 0; i < layers.size(); ++i)
    method.file_list.push_back(read_layer(layers[i], i, method.file));
  return method;
}

std::vector<int64_t> sparse_layers(const io::ModelConfig& config) {
  std::vector<int64_t> layers;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    if (config.is_sparse_layer(layer)) layers.push_back(layer);
  }
  return layers;
}

// `where` is the flag, or the file and layer.
void check_list(std::vector<int32_t> experts, int64_t num_experts, const std::string& where) {
  for (const int32_t expert : experts) {
    if (expert < 0 || expert >= num_experts) {
      throw_error("{}: expected experts from 0 to {}, found {}", where, num_experts - 1, expert);
    }
  }
  std::sort(experts.begin(), experts.end());
  if (const auto twice = std::adjacent_find(experts.begin(), experts.end()); twice != experts.end()) {
    throw_error("{}: expected each expert once, found {} twice", where, *twice);
  }
}

std::string layer_of(const PruneMethod& method, int64_t layer) {
  return fmt::format("{}: layer {}", method.file, layer);
}

// Checks the lists of a file and gives their common length.
int64_t check_file_list(const io::ModelConfig& config, const PruneMethod& method) {
  const auto num_layers = static_cast<size_t>(config.num_hidden_layers);
  if (method.file_list.size() != num_layers) {
    throw_error("{}: expected an array for each of the model's {} layers, found {}", method.file, num_layers,
                method.file_list.size());
  }
  const int64_t first = sparse_layers(config).front();
  const size_t length = method.file_list[static_cast<size_t>(first)].size();
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    const std::vector<int32_t>& experts = method.file_list[static_cast<size_t>(layer)];
    if (!config.is_sparse_layer(layer)) {
      if (experts.empty()) continue;
      throw_error("{}: expected no experts, for the layer is dense, found {}", layer_of(method, layer),
                  experts.size());
    }
    if (experts.empty()) throw_error("{}: expected at least one expert, found none", layer_of(method, layer));
    check_list(experts, config.num_experts, layer_of(method, layer));
    if (experts.size() != length) {
      throw_error("{}: expected {} experts as in layer {}, for num_experts is one number, found {}",
                  layer_of(method, layer), length, first, experts.size());
    }
  }
  return static_cast<int64_t>(length);
}

int64_t check_lists(const io::ModelConfig& config, const PruneMethod& method) {
  if (!method.file.empty()) return check_file_list(config, method);
  check_list(method.list, config.num_experts, "--method list");
  return static_cast<int64_t>(method.list.size());
}

std::vector<double> scores_of(const PruneMethod& method, const ExpertScores& scores) {
  switch (method.kind) {
    case Kind::frequency:
      return {scores.tokens.begin(), scores.tokens.end()};
    case Kind::router:
      return scores.gate_weight;
    case Kind::reap:
      return scores.reap;
    default:
      CHORALE_CHECK(false, "{} has no scores", name_of(method.kind));
  }
}

std::vector<int32_t> highest(std::span<const double> scores, int64_t count) {
  std::vector<int32_t> experts(scores.size());
  std::iota(experts.begin(), experts.end(), 0);
  std::stable_sort(experts.begin(), experts.end(), [&](int32_t a, int32_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  experts.resize(static_cast<size_t>(count));
  std::sort(experts.begin(), experts.end());
  return experts;
}

std::vector<int32_t> select_scored(const io::ModelConfig& config, const PruneMethod& method, int64_t layer,
                                   int64_t num_experts, std::span<const ExpertScores> scores) {
  CHORALE_CHECK(scores.size() == static_cast<size_t>(config.num_hidden_layers), "scores of {} layers",
                scores.size());
  const std::vector<double> values = scores_of(method, scores[static_cast<size_t>(layer)]);
  CHORALE_CHECK(values.size() == static_cast<size_t>(config.num_experts), "layer {}: {} scores", layer,
                values.size());
  for (size_t e = 0; e < values.size(); ++e) {
    if (!std::isnan(values[e])) continue;
    throw_error("--method {}: layer {}: the score of expert {} is NaN: the model computes NaN on this text",
                name_of(method.kind), layer, e);
  }
  return highest(values, num_experts);
}

std::vector<int32_t> select_layer(const io::ModelConfig& config, const PruneMethod& method, int64_t layer,
                                  int64_t num_experts, std::span<const ExpertScores> scores) {
  std::vector<int32_t> experts;
  switch (method.kind) {
    case Kind::first:
      experts.resize(static_cast<size_t>(num_experts));
      std::iota(experts.begin(), experts.end(), 0);
      return experts;
    case Kind::list:
      experts = method.file.empty() ? method.list : method.file_list[static_cast<size_t>(layer)];
      std::sort(experts.begin(), experts.end());
      return experts;
    default:
      return select_scored(config, method, layer, num_experts, scores);
  }
}

}  // namespace

std::string_view name_of(Kind kind) {
  const auto found =
      std::find_if(kNames.begin(), kNames.end(), [&](const auto& n) { return n.second == kind; });
  CHORALE_CHECK(found != kNames.end());
  return found->first;
}

PruneMethod parse_prune_method(std::string_view text) {
  if (text.starts_with(kListPrefix)) {
    const std::string_view experts = text.substr(kListPrefix.size());
    if (experts.empty())
      throw_error("--method list: expected experts, as in list:3,7, or a JSON file, found none");
    if (experts.find_first_not_of("0123456789,-") == std::string_view::npos) {
      return {.kind = Kind::list, .list = parse_list(experts, text)};
    }
    return read_list_file(experts);
  }
  for (const auto& [name, kind] : kNames) {
    if (text == name && kind != Kind::list) return {.kind = kind};
  }
  throw_error(
      "--method: expected first, list:3,7, list:FILE, frequency, reap, router, average or fit, found {}",
      io::quote(text));
}

bool needs_calibration(const PruneMethod& method) {
  return method.kind != Kind::first && method.kind != Kind::list;
}

bool merges_experts(const PruneMethod& method) {
  return method.kind == Kind::average || method.kind == Kind::fit;
}

int64_t check_prune_method(const io::ModelConfig& config, const PruneMethod& method,
                           std::optional<int64_t> num_experts) {
  if (sparse_layers(config).empty())
    throw_error("--model-path: expected a model with experts, found one whose layers are all dense");
  if (num_experts && (*num_experts < 1 || *num_experts > config.num_experts)) {
    throw_error("--experts: expected a number from 1 to {}, as many as the model has, found {}",
                config.num_experts, *num_experts);
  }
  if (merges_experts(method)) {
    if (num_experts.value_or(1) == 1) return 1;
    throw_error("--experts: expected 1, for --method {} makes one expert of all, found {}",
                name_of(method.kind), *num_experts);
  }
  if (method.kind == Kind::list) {
    const int64_t length = check_lists(config, method);
    if (num_experts.value_or(length) == length) return length;
    throw_error("--experts: expected {}, the length of the list{}, found {}", length,
                method.file.empty() ? " of --method" : fmt::format("s in {}", method.file), *num_experts);
  }
  if (!num_experts) {
    throw_error("--experts: expected a number from 1 to {} for --method {}, found none", config.num_experts,
                name_of(method.kind));
  }
  return *num_experts;
}

KeptExperts select_experts(const io::ModelConfig& config, const PruneMethod& method, int64_t num_experts,
                           std::span<const ExpertScores> scores) {
  CHORALE_CHECK(!merges_experts(method) && num_experts >= 1 && num_experts <= config.num_experts);
  KeptExperts kept(static_cast<size_t>(config.num_hidden_layers));
  for (const int64_t layer : sparse_layers(config)) {
    kept[static_cast<size_t>(layer)] = select_layer(config, method, layer, num_experts, scores);
  }
  return kept;
}

}  // namespace chorale::tools
