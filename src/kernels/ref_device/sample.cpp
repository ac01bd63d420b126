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

// The tokens that have been seen, and how often each is in the output.
std::vector<std::pair<int32_t, int32_t>> counts_of(const Tensor& counts, int32_t slot) {
  std::vector<std::pair<int32_t, int32_t>> list;
  if (slot < 0) return list;
  CHORALE_CHECK(slot < counts.rows(), "slot {} of {}", slot, counts.rows());
  const auto values = load_as<int32_t>(counts.middle_rows(slot, 1)).values;
  for (size_t t = 0; t < values.size(); ++t)
    if (values[t] != 0) list.emplace_back(static_cast<int32_t>(t), values[t] & ~kInPrompt);
  return list;
}

ref::SampleRow load_row(const SampleRows& input, int64_t row) {
  ref::SampleRow out{.logits = load(input.logits.middle_rows(row, 1)).values,
                     .params = {},
                     .bias = row_of<float>(input.bias, row),
                     .counts = {},
                     .allowed = {}};
  std::memcpy(&out.params, follow(input.params).row<std::byte>(row), sizeof(SampleParams));
  out.counts = counts_of(input.counts, out.params.count_slot);
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
      if (sampled.status != SampleStatus::ok) continue;
      if (asked.params.count_slot >= 0 && asked.params.given_token < 0)
        ++follow(input.counts).row<int32_t>(asked.params.count_slot)[sampled.token];
      if (asked.params.num_top < 0) continue;
      const Tensor top =
          output.top_tokens.empty() ? output.top_tokens : output.top_tokens.middle_rows(row, 1);
      write_logprobs(sampled, output.logprobs.middle_rows(row, 1), top);
    }
  });
}

void place_tokens(const Stream& stream, const Tensor& sampled, const Tensor& rows, const Tensor& token_ids) {
  enqueue(stream, [=] {
    auto ids = load_as<int32_t>(token_ids);
    ref::place_tokens(load_as<int32_t>(sampled).values, load_as<int32_t>(rows).values, ids.values);
    store(ids, token_ids);
  });
}

void clear_counts(const Stream& stream, const Tensor& counts) {
  enqueue(stream, [=] { store(ref::Dense<int32_t>(1, counts.columns()), counts); });
}

void count_tokens(const Stream& stream, const Tensor& tokens, bool in_prompt, const Tensor& counts) {
  enqueue(stream, [=] {
    for (const int32_t token : load_as<int32_t>(tokens).values) {
      CHORALE_CHECK(token >= 0 && token < counts.columns(), "token {} of {}", token, counts.columns());
      int32_t& count = follow(counts).data<int32_t>()[token];
      count = in_prompt ? count | kInPrompt : count + 1;
    }
  });
}

}  // namespace chorale::ref_device
