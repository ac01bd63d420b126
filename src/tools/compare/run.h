// Runs requests through an engine and keeps what came back, with the time of each token.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace chorale::tools {

// What a strategy must not change.
struct Answer {
  std::vector<int32_t> tokens;
  std::vector<engine::TokenLogprobs> logprobs;  // one per token
  engine::FinishReason finish = engine::FinishReason::none;
};

struct ServedRequest {
  Answer answer;
  double submitted = 0;              // seconds on the run's clock
  std::vector<double> token_times;   // one per token
  std::optional<std::string> error;  // why it was not finished
};

// Submits all requests at once and waits until the last one has ended. Throws Error for a request that was
// refused or did not finish.
std::vector<ServedRequest> run_requests(engine::Engine& engine,
                                        std::span<const engine::GenerationRequest> requests);

// Where two runs of the same requests differ for the first time, to the bit; nothing when they do not.
std::optional<std::string> find_difference(std::span<const Answer> expected, std::span<const Answer> actual);

}  // namespace chorale::tools
