#include "tools/eval.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/math.h"
#include "tools/run_sequence.h"

namespace chorale::tools {

double negative_log_likelihood(std::span<const float> logits, int32_t target) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit} - largest);
  return std::log(sum) + largest - double{logits[static_cast<size_t>(target)]};
}

EvalResult evaluate(engine::ModelRunner& runner, std::span<const int32_t> token_ids,
                    const EvalOptions& options) {
  CHORALE_CHECK(options.window >= 2 && options.max_windows >= 0);
  const auto num_tokens = static_cast<int64_t>(token_ids.size());
  if (num_tokens < 2) throw_error("the text has {} tokens; at least 2 are needed to score it", num_tokens);

  // A last window of one token has nothing to predict.
  int64_t num_windows = ceil_div(num_tokens - 1, options.window);
  if (options.max_windows > 0) num_windows = std::min(num_windows, options.max_windows);

  EvalResult result;
  double sum = 0;
  for (int64_t w = 0; w < num_windows; ++w) {
    const int64_t start = w * options.window;
    const auto window = token_ids.subspan(static_cast<size_t>(start),
                                          static_cast<size_t>(std::min(options.window, num_tokens - start)));
    const auto score = [&](int64_t first, std::span<const float> logits) {
      const auto vocab = static_cast<size_t>(runner.vocab_size());
      for (size_t row = 0; row < logits.size() / vocab; ++row) {
        const size_t next = static_cast<size_t>(first) + row + 1;
        if (next == window.size()) break;  // what follows the window is not predicted
        const double nll = negative_log_likelihood(logits.subspan(row * vocab, vocab), window[next]);
        if (std::isnan(nll))
          throw_error("the model's logits at token {} are NaN", start + static_cast<int64_t>(next) - 1);
        sum += nll;
        ++result.tokens;
      }
    };
    run_sequence(runner, window, options.chunk_size, score);
    ++result.windows;
    if (options.on_window) options.on_window(result.windows, num_windows);
  }
  result.nll = sum / static_cast<double>(result.tokens);
  result.perplexity = std::exp(result.nll);
  return result;
}

}  // namespace chorale::tools
