#include "kernels/ref/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "base/error.h"
#include "base/random.h"
#include "kernels/token_weight.h"

namespace chorale::ref {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

bool is_usable(const std::vector<float>& logits) {
  const auto is_bad = [](float x) { return std::isnan(x) || x == kInfinity; };
  const auto is_finite = [](float x) { return std::isfinite(x); };
  return std::ranges::none_of(logits, is_bad) && std::ranges::any_of(logits, is_finite);
}

// Finite, as adjustments leave finite logits.
float bounded(double logit) {
  constexpr double kLargest = std::numeric_limits<float>::max();
  return static_cast<float>(std::min(std::max(logit, -kLargest), kLargest));
}

std::vector<float> adjusted(const SampleRow& row) {
  std::vector<float> logits = row.logits;
  for (const auto& [token, bias] : row.bias) {
    float& logit = logits[static_cast<size_t>(token)];
    if (bias == -kInfinity) logit = -kInfinity;
    if (logit != -kInfinity) logit = bounded(double{logit} + bias);
  }
  const SampleParams& p = row.params;
  for (const auto& [token, count] : row.counts) {
    float& logit = logits[static_cast<size_t>(token)];
    if (logit == -kInfinity) continue;
    double value = logit > 0 ? logit / p.repetition_penalty : logit * p.repetition_penalty;
    value -= p.frequency_penalty * count;
    if (count > 0) value -= p.presence_penalty;
    logit = bounded(value);
  }
  for (size_t t = 0; p.is_masked != 0 && t < logits.size(); ++t) {
    if (!row.allowed[t]) logits[t] = -kInfinity;
  }
  return logits;
}

struct Entry {
  float logit;
  int32_t token;
  uint64_t weight;
};

// All tokens, the most likely first; of equal ones the lower id.
std::vector<Entry> sorted(const std::vector<float>& logits, double temperature) {
  const float max = *std::ranges::max_element(logits);
  std::vector<Entry> entries;
  for (const float logit : logits) {
    const auto token = static_cast<int32_t>(entries.size());
    entries.push_back({logit, token, token_weight(weight_exponent(logit, max, temperature))});
  }
  std::ranges::stable_sort(entries, [](const Entry& a, const Entry& b) { return a.logit > b.logit; });
  return entries;
}

uint64_t sum(std::span<const Entry> entries) {
  uint64_t total = 0;
  for (const Entry& entry : entries) total += entry.weight;
  return total;
}

// How many of the first entries have a weight of at least `mass` together.
size_t count_to(std::span<const Entry> entries, uint64_t mass) {
  size_t count = 0;
  for (uint64_t running = 0; running < mass; ++count) running += entries[count].weight;
  return count;
}

int32_t choose(const std::vector<float>& logits, const SampleParams& p) {
  if (p.temperature == 0) return sorted(logits, 1).front().token;
  const std::vector<Entry> all = sorted(logits, p.temperature);
  std::span<const Entry> left = all;
  if (p.top_k > 0 && static_cast<size_t>(p.top_k) < left.size())
    left = left.first(static_cast<size_t>(p.top_k));
  const size_t nucleus = p.top_p < 1 ? count_to(left, nucleus_mass(p.top_p, sum(left))) : left.size();
  size_t likely = 0;
  while (likely < left.size() && static_cast<double>(left[likely].weight) >= p.min_p * kWeightOne) ++likely;
  left = left.first(std::min(nucleus, likely));
  const uint64_t random = random_bits(p.seed, p.random_stream, p.position);
  return left[count_to(left, scale_random(random, sum(left)) + 1) - 1].token;
}

}  // namespace

SampledRow sample(const SampleRow& row) {
  if (!is_usable(row.logits)) return {SampleStatus::bad_logits};
  SampledRow result;
  result.token = row.params.given_token;
  if (result.token < 0) {
    const std::vector<float> logits = adjusted(row);
    if (!is_usable(logits)) return {SampleStatus::all_masked};
    result.token = choose(logits, row.params);
  }
  if (row.params.num_top < 0) return result;
  const std::vector<Entry> entries = sorted(row.logits, 1);
  const double max = entries.front().logit;
  const double log_sum = std::log(static_cast<double>(sum(entries)) / kWeightOne);
  const auto logprob = [&](float logit) { return static_cast<float>(double{logit} - max - log_sum); };
  result.logprob = logprob(row.logits[static_cast<size_t>(result.token)]);
  for (const Entry& entry :
       std::span(entries).first(std::min(entries.size(), static_cast<size_t>(row.params.num_top)))) {
    result.logprobs.emplace_back(entry.token, logprob(entry.logit));
  }
  return result;
}

void place_tokens(std::span<const int32_t> sampled, std::span<const int32_t> rows,
                  std::span<int32_t> token_ids) {
  for (size_t t = 0; t < rows.size(); ++t) {
    if (rows[t] < 0) continue;
    CHORALE_CHECK(static_cast<size_t>(rows[t]) < sampled.size(), "row {} of {}", rows[t], sampled.size());
    token_ids[t] = std::max(sampled[static_cast<size_t>(rows[t])], 0);
  }
}

}  // namespace chorale::ref
