// sample.h on the reference device.
#include "kernels/ref/sample.h"

#include <cstring>
#include <limits>

#include "kernels/ref_device/elements.h"
#include "kernels/ref_device/ops.h"

namespace chorale::ref_device {
namespace {

template <typename T>
std::vector<std::pair<int32_t, T>> row_of(const SparseRows& lists, int64_t row) {
  std::vector<std::pair<int32_t, T>> list;
  if (lists.offsets.empty()) return list;
  const auto* offsets = follow(lists.offsets).data<int32_t>();
  for (int32_t i = offsets[row]; i < offsets[row + 1]; ++i)
    list.emplace_back(follow(lists.tokens).data<int32_t>()[i], follow(lists.values).data<T>()[i]);
  return list;
}

ref::SampleRow load_row(const SampleRows& input, int64_t row) {
  ref::SampleRow out{.logits = load(input.logits.middle_rows(row, 1)).values,
                     .params = {},
                     .bias = row_of<float>(input.bias, row),
                     .counts = row_of<int32_t>(input.counts, row),
                     .allowed = {}};
  std::memcpy(&out.params, follow(input.params).row<std::byte>(row), sizeof(SampleParams));
  if (out.params.is_masked == 0) return out;
  CHORALE_CHECK(!input.allowed.empty(), "row {} has no mask", row);
  const auto* words = follow(input.allowed).row<int32_t>(row);
  for (size_t t = 0; t < out.logits.size(); ++t)
    out.allowed.push_back((static_cast<uint32_t>(words[t / 32]) >> t % 32 & 1) != 0);
  return out;
}

void write_logprobs(const ref::SampledRow& sampled, const Tensor& logprobs, const Tensor& top_tokens) {
  CHORALE_CHECK(!logprobs.empty() && std::ssize(sampled.logprobs) <= top_tokens.columns(),
                "{} log probabilities of {}", sampled.logprobs.size(), top_tokens.columns());
  ref::Dense<float> values(1, logprobs.columns());
  ref::Dense<int32_t> tokens(1, top_tokens.columns());
  std::ranges::fill(values.values, -std::numeric_limits<float>::infinity());
  std::ranges::fill(tokens.values, -1);
  values.at(0, 0) = sampled.logprob;
  for (size_t i = 0; i < sampled.logprobs.size(); ++i) {
    tokens.values[i] = sampled.logprobs[i].first;
    values.values[1 + i] = sampled.logprobs[i].second;
  }
  store(values, logprobs);
  if (!tokens.empty()) store(tokens, top_tokens);
}

}  // namespace

void sample(const Stream& stream, const SampleRows& input, const Tensor&, const SampledRows& output) {
  enqueue(stream, [=] {
    for (int64_t row = 0; row < input.logits.rows(); ++row) {
      const ref::SampleRow asked = load_row(input, row);
      const ref::SampledRow sampled = ref::sample(asked);
      follow(output.tokens).data<int32_t>()[row] = sampled.token;
      follow(output.statuses).data<int32_t>()[row] = static_cast<int32_t>(sampled.status);
      if (sampled.status != SampleStatus::ok || asked.params.num_top < 0) continue;
      const Tensor top =
          output.top_tokens.empty() ? output.top_tokens : output.top_tokens.middle_rows(row, 1);
      write_logprobs(sampled, output.logprobs.middle_rows(row, 1), top);
    }
  });
}

}  // namespace chorale::ref_device
