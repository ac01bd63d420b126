#include "engine/sample_plan.h"

#include <algorithm>

namespace chorale::engine {

void SamplePlan::clear() {
  params.clear();
  bias_offsets.assign(1, 0);
  bias_tokens.clear();
  biases.clear();
  masks.clear();
  texts.clear();
  text_tokens.clear();
}

int64_t SamplePlan::most_alternatives() const {
  int32_t most = -1;
  for (const SampleParams& row : params) most = std::max(most, row.num_top);
  return most;
}

TokenLogprobs SampledStep::logprobs_of(int64_t row) const {
  const float* values = logprobs.data() + row * (1 + most);
  TokenLogprobs result{.logprob = values[0], .top = {}};
  const auto top = top_tokens.subspan(static_cast<size_t>(row * most), static_cast<size_t>(most));
  const auto count = static_cast<size_t>(std::ranges::find(top, -1) - top.begin());
  result.top.reserve(count);
  for (size_t i = 0; i < count; ++i) result.top.emplace_back(top[i], values[1 + i]);
  return result;
}

}  // namespace chorale::engine
