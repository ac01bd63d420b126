// sample.h on the CPU: rows are independent, and a thread works on one at a time.
#include "kernels/sample.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <span>

#include "base/error.h"
#include "base/math.h"
#include "base/random.h"
#include "kernels/cpu/ops.h"
#include "kernels/token_weight.h"

namespace chorale::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();
constexpr size_t kBuckets = 1024;

struct Candidate {
  float logit;
  int32_t token;
  // The order of sampling: more likely first, then the lower id.
  friend bool operator<(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
  }
};

struct RowSummary {
  float max = -kInfinity;
  float min = kInfinity;  // over finite values
  bool usable = false;    // no NaN, no +infinity, at least one finite value
};

// Summarizes a row that is read in pieces, in independent lanes, so that the compiler can use vector
// instructions.
class Summarizer {
 public:
  static constexpr size_t kLanes = 16;

  Summarizer() {
    std::fill_n(max_, kLanes, -kInfinity);
    std::fill_n(min_, kLanes, kInfinity);
  }

  void take_lanes(const float* values) {
    for (size_t lane = 0; lane < kLanes; ++lane) take(lane, values[lane]);
  }
  void take(size_t lane, float x) {
    max_[lane] = x > max_[lane] ? x : max_[lane];
    const float finite = x > -kInfinity ? x : kInfinity;
    min_[lane] = finite < min_[lane] ? finite : min_[lane];
    nan_[lane] |= x != x ? 1 : 0;
  }

  RowSummary summary() const {
    RowSummary summary;
    bool any_nan = false;
    for (size_t lane = 0; lane < kLanes; ++lane) {
      summary.max = std::max(summary.max, max_[lane]);
      summary.min = std::min(summary.min, min_[lane]);
      any_nan |= nan_[lane] != 0;
    }
    summary.usable = !any_nan && std::isfinite(summary.max);
    return summary;
  }

 private:
  float max_[kLanes];
  float min_[kLanes];
  int32_t nan_[kLanes] = {};
};

RowSummary summarize(std::span<const float> row) {
  Summarizer summarizer;
  size_t i = 0;
  for (; i + Summarizer::kLanes <= row.size(); i += Summarizer::kLanes) summarizer.take_lanes(row.data() + i);
  for (; i < row.size(); ++i) summarizer.take(0, row[i]);
  return summarizer.summary();
}

constexpr std::array<uint32_t, 32> kBits = [] {
  std::array<uint32_t, 32> bits{};
  for (uint32_t i = 0; i < 32; ++i) bits[i] = uint32_t{1} << i;
  return bits;
}();

// Copies the row, with minus infinity for each token whose bit is not set; `to` may be `from`. The summary is
// that of the result.
RowSummary copy_allowed(std::span<const float> from, std::span<const uint32_t> allowed, std::span<float> to) {
  constexpr size_t kWord = kBits.size();
  Summarizer summarizer;
  float kept[kWord];
  const size_t num_whole = from.size() / kWord;
  for (size_t word = 0; word < num_whole; ++word) {
    const uint32_t bits = allowed[word];
    float* target = to.data() + word * kWord;
    if (bits == 0) {
      std::fill_n(target, kWord, -kInfinity);
      continue;
    }
    const float* source = from.data() + word * kWord;
    for (size_t i = 0; i < kWord; ++i) kept[i] = (bits & kBits[i]) != 0 ? source[i] : -kInfinity;
    for (size_t i = 0; i < kWord; i += Summarizer::kLanes) summarizer.take_lanes(kept + i);
    std::copy_n(kept, kWord, target);
  }
  for (size_t i = num_whole * kWord; i < from.size(); ++i) {
    to[i] = (allowed[num_whole] & kBits[i % kWord]) != 0 ? from[i] : -kInfinity;
    summarizer.take(0, to[i]);
  }
  return summarizer.summary();
}

int32_t first_equal(std::span<const float> row, float value) {
  return static_cast<int32_t>(std::ranges::find(row, value) - row.begin());
}

// Adjustments keep finite logits finite, so that nothing a request asks for can make NaN of them.
float bounded(double logit) {
  return static_cast<float>(std::clamp<double>(logit, -kLargest, kLargest));
}

// What one row's lists hold.
struct RowLists {
  std::span<const int32_t> bias_tokens;
  std::span<const float> biases;
  std::span<int32_t> counts;          // [V]; empty: no penalties
  std::span<const uint32_t> allowed;  // empty: all tokens
};

bool penalizes(const SampleParams& p) {
  return p.repetition_penalty != 1 || p.frequency_penalty != 0 || p.presence_penalty != 0;
}

// Works on one row after the other, in scratch memory.
class RowSampler {
 public:
  RowSampler(std::byte* scratch, size_t vocab_size)
      : weights_(take<uint64_t>(scratch, vocab_size)),
        bucket_weight_(take<uint64_t>(scratch, kBuckets)),
        candidates_(take<Candidate>(scratch, vocab_size)),
        adjusted_(take<float>(scratch, vocab_size)),
        bucket_of_(take<uint16_t>(scratch, vocab_size)) {}

  static int64_t scratch_bytes(int64_t vocab_size) {
    constexpr int64_t kForToken = sizeof(uint64_t) + sizeof(Candidate) + sizeof(float) + sizeof(uint16_t);
    // Whole cache lines, so that threads do not share one.
    return round_up(vocab_size * kForToken + static_cast<int64_t>(kBuckets * sizeof(uint64_t)), int64_t{64});
  }

  struct Sampled {
    SampleStatus status = SampleStatus::ok;
    int32_t token = -1;
  };
  Sampled sample(std::span<const float> raw, const SampleParams& params, const RowLists& lists);
  // The row has been sampled, with status ok.
  void write_logprobs(std::span<const float> raw, int32_t token, int32_t num_top, float* logprobs,
                      std::span<int32_t> top_tokens);

 private:
  struct Found {
    int32_t token;
    uint64_t mass;  // of all tokens up to and with this one
  };

  template <typename T>
  static std::span<T> take(std::byte*& scratch, size_t count) {
    T* const begin = reinterpret_cast<T*>(scratch);
    scratch += count * sizeof(T);
    return {begin, count};
  }

  void add_bias(const RowLists& lists);
  void apply_penalties(const SampleParams& params, const RowLists& lists);
  int32_t sample_from_top_k(std::span<const float> logits, const SampleParams& params, uint64_t random);
  int32_t sample_from_all(std::span<const float> logits, const SampleParams& params, uint64_t random);
  void collect_top(std::span<const float> logits, size_t count);
  void collect_bucket(std::span<const float> logits, uint16_t bucket);
  void assign_buckets(std::span<const float> logits);
  Found find_in_candidates(uint64_t mass, uint64_t mass_before) const;
  Found find_in_buckets(std::span<const float> logits, uint64_t mass);
  uint64_t weight_of(float logit) const;
  void weigh_all(std::span<const float> logits);

  std::span<uint64_t> weights_;        // [V]
  std::span<uint64_t> bucket_weight_;  // [buckets]
  std::span<Candidate> candidates_;    // [V], the first num_candidates_ are some; sorted when read
  std::span<float> adjusted_;          // [V], the row after bias, penalties and mask
  std::span<uint16_t> bucket_of_;      // [V]
  size_t num_candidates_ = 0;
  // The row that is being sampled:
  float max_ = 0;
  float min_ = 0;  // over the finite logits
  double temperature_ = 1;
};

RowSampler::Sampled RowSampler::sample(std::span<const float> raw, const SampleParams& params,
                                       const RowLists& lists) {
  RowSummary summary = summarize(raw);
  if (!summary.usable) return {SampleStatus::bad_logits};
  if (params.given_token >= 0) return {SampleStatus::ok, params.given_token};
  std::span<const float> logits = raw;
  if (!lists.bias_tokens.empty() || (penalizes(params) && !lists.counts.empty())) {
    std::ranges::copy(raw, adjusted_.begin());
    add_bias(lists);
    if (penalizes(params)) apply_penalties(params, lists);
    logits = adjusted_;
    if (lists.allowed.empty()) summary = summarize(logits);
  }
  if (!lists.allowed.empty()) {
    summary = copy_allowed(logits, lists.allowed, adjusted_);
    logits = adjusted_;
  }
  if (!summary.usable) return {SampleStatus::all_masked};
  if (params.temperature == 0) return {SampleStatus::ok, first_equal(logits, summary.max)};

  max_ = summary.max;
  min_ = summary.min;
  temperature_ = params.temperature;
  const uint64_t random = random_bits(params.seed, params.random_stream, params.position);
  const bool all = params.top_k <= 0 || params.top_k >= static_cast<int64_t>(logits.size());
  return {SampleStatus::ok,
          all ? sample_from_all(logits, params, random) : sample_from_top_k(logits, params, random)};
}

void RowSampler::add_bias(const RowLists& lists) {
  for (size_t i = 0; i < lists.bias_tokens.size(); ++i) {
    float& logit = adjusted_[static_cast<size_t>(lists.bias_tokens[i])];
    const float bias = lists.biases[i];
    if (logit == -kInfinity) continue;
    logit = bias == -kInfinity ? -kInfinity : bounded(double{logit} + double{bias});
  }
}

void RowSampler::apply_penalties(const SampleParams& p, const RowLists& lists) {
  const auto penalize = [&](size_t token) {
    float& logit = adjusted_[token];
    if (lists.counts[token] == 0 || logit == -kInfinity) return;
    const double repeated = logit > 0 ? logit / p.repetition_penalty : logit * p.repetition_penalty;
    const int32_t count = lists.counts[token] & ~kInPrompt;
    const double present = count > 0 ? p.presence_penalty : 0.0;
    logit = bounded(repeated - p.frequency_penalty * count - present);
  };
  // Few tokens have been seen: most pieces are passed over in a few vector instructions.
  constexpr size_t kPiece = 64;
  for (size_t begin = 0; begin < lists.counts.size(); begin += kPiece) {
    const size_t end = std::min(begin + kPiece, lists.counts.size());
    int32_t any = 0;
    for (size_t token = begin; token < end; ++token) any |= lists.counts[token];
    if (any == 0) continue;
    for (size_t token = begin; token < end; ++token) penalize(token);
  }
}

uint64_t RowSampler::weight_of(float logit) const {
  return token_weight(weight_exponent(logit, max_, temperature_));
}

void RowSampler::weigh_all(std::span<const float> logits) {
  // In pieces that stay in the innermost cache, and in two loops of which each has one width of element: so
  // both become vector instructions.
  constexpr size_t kPiece = 256;
  double x[kPiece];
  const float max = max_;
  const double temperature = temperature_;
  for (size_t begin = 0; begin < logits.size(); begin += kPiece) {
    const size_t size = std::min(kPiece, logits.size() - begin);
    const float* logit = logits.data() + begin;
    uint64_t* weight = weights_.data() + begin;
    for (size_t i = 0; i < size; ++i) x[i] = weight_exponent(logit[i], max, temperature);
    for (size_t i = 0; i < size; ++i) weight[i] = token_weight(x[i]);
  }
}

// The most likely tokens, sorted, by a bounded heap whose top is the least likely one kept.
void RowSampler::collect_top(std::span<const float> logits, size_t count) {
  count = std::min(count, logits.size());
  num_candidates_ = count;
  if (count == 0) return;
  const std::span<Candidate> kept = candidates_.first(count);
  for (size_t i = 0; i < count; ++i) kept[i] = {logits[i], static_cast<int32_t>(i)};
  std::make_heap(kept.begin(), kept.end());
  for (size_t i = count; i < logits.size(); ++i) {
    // Ids ascend, so an equal logit comes after those kept.
    if (!(logits[i] > kept.front().logit)) continue;
    std::pop_heap(kept.begin(), kept.end());
    kept.back() = {logits[i], static_cast<int32_t>(i)};
    std::push_heap(kept.begin(), kept.end());
  }
  std::sort_heap(kept.begin(), kept.end());
}

// The first candidate at which the running mass exceeds `mass`.
RowSampler::Found RowSampler::find_in_candidates(uint64_t mass, uint64_t mass_before) const {
  uint64_t running = mass_before;
  for (const Candidate& candidate : candidates_.first(num_candidates_)) {
    running += weight_of(candidate.logit);
    if (running > mass) return {candidate.token, running};
  }
  CHORALE_CHECK(false, "mass {} is beyond the total of {}", mass, running);
  return {};
}

int32_t RowSampler::sample_from_top_k(std::span<const float> logits, const SampleParams& params,
                                      uint64_t random) {
  collect_top(logits, static_cast<size_t>(params.top_k));
  const double least_weight = params.min_p * kWeightOne;
  uint64_t total = 0;
  uint64_t min_p_mass = 0;
  for (const Candidate& candidate : candidates_.first(num_candidates_)) {
    const uint64_t weight = weight_of(candidate.logit);
    total += weight;
    if (static_cast<double>(weight) >= least_weight) min_p_mass += weight;
  }
  // Every filter keeps a prefix of the same order, so the smallest mass is the strictest filter's.
  uint64_t mass = std::min(total, min_p_mass);
  if (params.top_p < 1) {
    mass = std::min(mass, find_in_candidates(nucleus_mass(params.top_p, total) - 1, 0).mass);
  }
  return find_in_candidates(scale_random(random, mass), 0).token;
}

int32_t RowSampler::sample_from_all(std::span<const float> logits, const SampleParams& params,
                                    uint64_t random) {
  assign_buckets(logits);
  weigh_all(logits);
  std::ranges::fill(bucket_weight_, 0);
  const double least_weight = params.min_p * kWeightOne;
  uint64_t total = 0;
  uint64_t min_p_mass = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const uint64_t weight = weights_[i];
    bucket_weight_[bucket_of_[i]] += weight;
    total += weight;
    if (static_cast<double>(weight) >= least_weight) min_p_mass += weight;
  }
  uint64_t mass = std::min(total, min_p_mass);
  if (params.top_p < 1) {
    mass = std::min(mass, find_in_buckets(logits, nucleus_mass(params.top_p, total) - 1).mass);
  }
  return find_in_buckets(logits, scale_random(random, mass)).token;
}

// Buckets divide the logits that have weight into equal intervals, the largest logits first. Subtracting,
// scaling and truncating are all monotone, so a token of an earlier bucket is never less likely than one of a
// later bucket.
void RowSampler::assign_buckets(std::span<const float> logits) {
  const double range = std::min(double{max_} - double{min_}, kNoWeight * temperature_);
  const float scale = bounded(static_cast<double>(kBuckets) / std::max(range, 1e-30));
  constexpr auto kLast = static_cast<float>(kBuckets - 1);
  for (size_t i = 0; i < logits.size(); ++i) {
    const float bucket = (max_ - logits[i]) * scale;
    bucket_of_[i] = static_cast<uint16_t>(static_cast<int32_t>(bucket < kLast ? bucket : kLast));
  }
}

void RowSampler::collect_bucket(std::span<const float> logits, uint16_t bucket) {
  num_candidates_ = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (bucket_of_[i] == bucket) candidates_[num_candidates_++] = {logits[i], static_cast<int32_t>(i)};
  }
  const std::span<Candidate> found = candidates_.first(num_candidates_);
  // Equal logits are in order already.
  if (!std::is_sorted(found.begin(), found.end())) std::sort(found.begin(), found.end());
}

RowSampler::Found RowSampler::find_in_buckets(std::span<const float> logits, uint64_t mass) {
  uint64_t running = 0;
  size_t bucket = 0;
  while (bucket < kBuckets && running + bucket_weight_[bucket] <= mass) running += bucket_weight_[bucket++];
  CHORALE_CHECK(bucket < kBuckets, "mass {} is beyond the total of {}", mass, running);
  collect_bucket(logits, static_cast<uint16_t>(bucket));
  return find_in_candidates(mass, running);
}

void RowSampler::write_logprobs(std::span<const float> raw, int32_t token, int32_t num_top, float* logprobs,
                                std::span<int32_t> top_tokens) {
  max_ = summarize(raw).max;
  temperature_ = 1;
  weigh_all(raw);
  const uint64_t sum = std::accumulate(weights_.begin(), weights_.end(), uint64_t{0});
  // The maximum is taken off first, so that a large one does not swallow the logarithm.
  const double max = max_;
  const double log_sum = std::log(static_cast<double>(sum) / kWeightOne);
  const auto logprob = [&](float logit) { return static_cast<float>(double{logit} - max - log_sum); };
  logprobs[0] = logprob(raw[static_cast<size_t>(token)]);
  collect_top(raw, static_cast<size_t>(num_top));
  for (size_t i = 0; i < top_tokens.size(); ++i) {
    const bool is_told = i < num_candidates_;
    top_tokens[i] = is_told ? candidates_[i].token : -1;
    logprobs[1 + i] = is_told ? logprob(candidates_[i].logit) : -kInfinity;
  }
}

template <typename T>
std::span<const T> row_of(const Tensor& values, const Tensor& offsets, int64_t row) {
  if (offsets.empty()) return {};
  const int32_t begin = offsets.data<int32_t>()[row];
  const auto count = static_cast<size_t>(offsets.data<int32_t>()[row + 1] - begin);
  if (count == 0) return {};
  return {values.data<T>() + begin, count};
}

void sample_row(RowSampler& sampler, const SampleRows& input, int64_t row, const SampledRows& output) {
  const std::span<const float> logits(input.logits.row<float>(row),
                                      static_cast<size_t>(input.logits.columns()));
  SampleParams params;
  std::memcpy(&params, input.params.row<std::byte>(row), sizeof(params));
  RowLists lists{.bias_tokens = row_of<int32_t>(input.bias.tokens, input.bias.offsets, row),
                 .biases = row_of<float>(input.bias.values, input.bias.offsets, row),
                 .counts = {},
                 .allowed = {}};
  if (params.count_slot >= 0) {
    CHORALE_CHECK(params.count_slot < input.counts.rows(), "slot {} of {}", params.count_slot,
                  input.counts.rows());
    lists.counts = {input.counts.row<int32_t>(params.count_slot), logits.size()};
  }
  if (params.is_masked != 0) {
    CHORALE_CHECK(!input.allowed.empty(), "row {} has no mask", row);
    lists.allowed = {reinterpret_cast<const uint32_t*>(input.allowed.row<int32_t>(row)),
                     static_cast<size_t>(input.allowed.columns())};
  }
  const RowSampler::Sampled sampled = sampler.sample(logits, params, lists);
  output.tokens.data<int32_t>()[row] = sampled.token;
  output.statuses.data<int32_t>()[row] = static_cast<int32_t>(sampled.status);
  if (sampled.status != SampleStatus::ok) return;
  if (!lists.counts.empty() && params.given_token < 0) ++lists.counts[static_cast<size_t>(sampled.token)];
  if (params.num_top < 0) return;
  const auto most = static_cast<size_t>(output.top_tokens.columns());
  CHORALE_CHECK(
      !output.logprobs.empty() && std::min(static_cast<size_t>(params.num_top), logits.size()) <= most,
      "row {} asks for {} log probabilities of {}", row, params.num_top, most);
  sampler.write_logprobs(
      logits, sampled.token, params.num_top, output.logprobs.row<float>(row),
      most == 0 ? std::span<int32_t>{} : std::span(output.top_tokens.row<int32_t>(row), most));
}

}  // namespace

int64_t sample_scratch_bytes(int64_t vocab_size) {
  return RowSampler::scratch_bytes(vocab_size);
}

void sample(const Stream& stream, const SampleRows& input, const Tensor& scratch, const SampledRows& output) {
  std::atomic<int64_t> next{0};
  stream.pool().parallel(std::min(scratch.rows(), input.logits.rows()), [&](int64_t place) {
    RowSampler sampler(scratch.row<std::byte>(place), static_cast<size_t>(input.logits.columns()));
    for (int64_t row = next++; row < input.logits.rows(); row = next++) {
      sample_row(sampler, input, row, output);
    }
  });
}

void place_tokens(const Stream&, const Tensor& sampled, const Tensor& rows, const Tensor& token_ids) {
  const auto* token = sampled.data<int32_t>();
  const auto* row = rows.data<int32_t>();
  auto* id = token_ids.data<int32_t>();
  for (int64_t t = 0; t < rows.columns(); ++t) {
    if (row[t] < 0) continue;
    CHORALE_CHECK(row[t] < sampled.columns(), "row {} of {}", row[t], sampled.columns());
    id[t] = std::max(token[row[t]], 0);
  }
}

void clear_counts(const Stream&, const Tensor& counts) {
  std::fill_n(counts.data<int32_t>(), counts.columns(), 0);
}

void count_tokens(const Stream&, const Tensor& tokens, bool in_prompt, const Tensor& counts) {
  for (const int32_t token : std::span(tokens.data<int32_t>(), static_cast<size_t>(tokens.columns()))) {
    CHORALE_CHECK(token >= 0 && token < counts.columns(), "token {} of {}", token, counts.columns());
    int32_t& count = counts.data<int32_t>()[token];
    count = in_prompt ? count | kInPrompt : count + 1;
  }
}

}  // namespace chorale::cpu
