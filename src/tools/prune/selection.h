// Which experts a pruned model keeps. Pure functions, but for the list that may be in a file; thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/model_config.h"
#include "tools/prune/expert_scores.h"

namespace chorale::tools {

// The value of --method.
struct PruneMethod {
  enum class Kind {
    first,      // experts 0..N-1
    list,       // those that the user names
    frequency,  // most tokens
    reap,       // largest ExpertScores::reap
    router,     // largest sum of gate weights
    average,    // one expert: the mean of all, weighted by their tokens
    fit,        // one expert, fitted to the output of all
  };
  Kind kind = Kind::first;
  std::vector<int32_t> list;                    // list:3,7: the same experts in every layer
  std::vector<std::vector<int32_t>> file_list;  // list:FILE: experts by layer
  std::string file;                             // FILE of list:FILE, else empty

  bool operator==(const PruneMethod&) const = default;
};

// "first", "list", "frequency", ...
std::string_view name_of(PruneMethod::Kind kind);

// Parses first, list:3,7, list:FILE, frequency, reap, router, average or fit. A FILE is a JSON array with an
// array of experts per layer of the model, which may be empty or null where a layer is dense. Throws Error
// that names --method, or the file and what is wrong in it.
PruneMethod parse_prune_method(std::string_view text);

// Whether the method needs the scores of a calibration, or more of it (fit).
bool needs_calibration(const PruneMethod& method);

// Whether the method makes one new expert, rather than keeping some as they are.
bool merges_experts(const PruneMethod& method);

// The experts that are kept in each layer, ascending; empty for a dense layer.
using KeptExperts = std::vector<std::vector<int32_t>>;  // [num_hidden_layers]

// The number of experts that each layer will have, N: `num_experts` (--experts), or when it is not given, the
// length of the lists, or 1 for methods that merge. Throws Error that names the flag, or the file, and what
// was expected: the model has no experts, N is missing or outside 1..E, a method that merges has N other than
// 1, a list has duplicates, experts that do not exist, or another length than N. All that can be refused is
// refused here, before there are scores.
int64_t check_prune_method(const io::ModelConfig& config, const PruneMethod& method,
                           std::optional<int64_t> num_experts);

// The N experts of each layer with the highest scores; of equal ones that with the lower index. For methods
// that do not merge; `num_experts` as check_prune_method gave it. `scores` has an entry per layer, or may be
// empty where the method needs none. Throws Error when a score is NaN.
KeptExperts select_experts(const io::ModelConfig& config, const PruneMethod& method, int64_t num_experts,
                           std::span<const ExpertScores> scores);

}  // namespace chorale::tools
