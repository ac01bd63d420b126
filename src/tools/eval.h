// Mean negative log-likelihood of a text: how well the model predicts it.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "engine/model_runner.h"

namespace chorale::tools {

struct EvalOptions {
  int64_t window = 512;      // tokens, at least 2
  int64_t max_windows = 0;   // 0: all
  int64_t chunk_size = 512;  // prefill chunk, at least 1
  // Called after each window with the number done and the number of all, where set.
  std::function<void(int64_t done, int64_t total)> on_window;
};

struct EvalResult {
  double nll = 0;         // nats per predicted token
  double perplexity = 0;  // exp(nll)
  int64_t tokens = 0;     // predicted tokens
  int64_t windows = 0;
};

// -log softmax(logits)[target], in nats, in double precision. NaN when a logit is.
double negative_log_likelihood(std::span<const float> logits, int32_t target);

// Cuts `token_ids` into windows without overlap and scores each as a sequence of its own; the first token of
// a window is not predicted. The last window may be shorter than the others; one token alone is left out.
// Throws Error for fewer than two tokens, an id outside the vocabulary, or NaN logits. The KV cache must hold
// one window.
EvalResult evaluate(engine::ModelRunner& runner, std::span<const int32_t> token_ids,
                    const EvalOptions& options);

}  // namespace chorale::tools
