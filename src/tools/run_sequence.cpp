#include "tools/run_sequence.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/math.h"

namespace chorale::tools {

void run_sequence(engine::ModelRunner& runner, std::span<const int32_t> token_ids, int64_t chunk_size,
                  const LogitsConsumer& consume) {
  CHORALE_CHECK(chunk_size >= 1);
  const auto total = static_cast<int64_t>(token_ids.size());
  for (int64_t t = 0; t < total; ++t) {
    const int32_t id = token_ids[static_cast<size_t>(t)];
    if (id < 0 || id >= runner.vocab_size()) {
      throw_error("token {} of the input has id {}; the model's vocabulary has ids 0 to {}", t, id,
                  runner.vocab_size() - 1);
    }
  }

  for (int64_t first = 0; first < total; first += chunk_size) {
    const int64_t count = std::min(chunk_size, total - first);
    engine::StepPlan plan;
    plan.token_ids.assign(token_ids.begin() + first, token_ids.begin() + first + count);
    plan.block_tables.resize(static_cast<size_t>(ceil_div(first + count, runner.block_tokens())));
    std::iota(plan.block_tables.begin(), plan.block_tables.end(), 0);
    plan.chunks.push_back({.first_token = 0,
                           .num_tokens = count,
                           .first_position = first,
                           .first_block_index = 0,
                           .num_blocks = static_cast<int64_t>(plan.block_tables.size())});
    plan.logits_tokens.resize(static_cast<size_t>(count));
    std::iota(plan.logits_tokens.begin(), plan.logits_tokens.end(), 0);
    consume(first, runner.run(plan));
  }
}

}  // namespace chorale::tools
