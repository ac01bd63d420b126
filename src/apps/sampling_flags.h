// The flags of sampling, of the commands that make text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/request.h"
#include "io/model_config.h"

namespace CLI {
class App;
}  // namespace CLI

namespace chorale::apps {

// Where absent, generation_config.json decides, then the engine's default.
struct SamplingFlags {
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int64_t> top_k;
  std::optional<int64_t> seed;
  std::optional<int64_t> max_new_tokens;
  bool ignore_eos = false;
  std::vector<std::string> stop;
};

// Registers them, bound to `flags`, which must outlive the app. `default_length` stands in the help for what
// holds without --max-new-tokens.
void add_sampling_flags(CLI::App& app, SamplingFlags& flags, const std::string& default_length);

// All but max_new_tokens.
engine::SamplingParams sampling_params(const SamplingFlags& flags, const io::GenerationDefaults& defaults);

}  // namespace chorale::apps
