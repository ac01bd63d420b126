#include "engine/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/random.h"

namespace chorale::engine {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();

constexpr double kWeightOne = 0x1p43;  // so that kMaxVocabulary tokens of this weight fit in 63 bits
constexpr double kNoWeight = 31.0;     // nats below the maximum where the weight rounds to zero
constexpr size_t kBuckets = 1024;

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

// Beside the mask of what is allowed.
bool changes_logits(const SampleInput& input) {
  const SamplingParams& p = input.params;
  return !p.logit_bias.empty() || p.repetition_penalty != 1 || p.frequency_penalty != 0 ||
         p.presence_penalty != 0 || static_cast<int64_t>(input.output.size()) < p.min_new_tokens;
}

// Adjustments keep finite logits finite, so that nothing a request asks for can make NaN of them.
float bounded(double logit) {
  return static_cast<float>(std::clamp<double>(logit, -kLargest, kLargest));
}

// exp(x) in units of 1 / kWeightOne, rounded to nearest, for -kNoWeight <= x <= 0; exactly kWeightOne at 0.
// Written in operations that compilers turn into vector instructions, and that round alike in both: exp(x) =
// 2^n exp(r) with |r| <= ln(2) / 2, and the Taylor series of exp(r), whose relative error of 1e-14 is far
// below the rounding to fixed point.
uint64_t fixed_point_exp(double x) {
  constexpr double kLog2E = 1.4426950408889634;
  constexpr double kLn2 = 0.6931471805599453;
  constexpr double kRoundToInteger = 0x1.8p52;  // adding it leaves the nearest integer in the low bits
  const double shifted = x * kLog2E + kRoundToInteger;
  const double r = x - (shifted - kRoundToInteger) * kLn2;
  // Horner's scheme, written out: a loop over the coefficients would keep the loop over tokens from becoming
  // vectors.
  double series = r * (1.0 / 39916800) + 1.0 / 3628800;
  series = series * r + 1.0 / 362880;
  series = series * r + 1.0 / 40320;
  series = series * r + 1.0 / 5040;
  series = series * r + 1.0 / 720;
  series = series * r + 1.0 / 120;
  series = series * r + 1.0 / 24;
  series = series * r + 1.0 / 6;
  series = series * r + 1.0 / 2;
  series = series * r + 1.0;
  series = series * r + 1.0;
  const uint64_t power = std::bit_cast<uint64_t>(shifted) << 52;  // n, in the place of the exponent
  const double scaled = std::bit_cast<double>(std::bit_cast<uint64_t>(series) + power) * kWeightOne;
  constexpr uint64_t kMantissa = (uint64_t{1} << 52) - 1;
  return std::bit_cast<uint64_t>(scaled + 0x1p52) & kMantissa;
}

// What fixed_point_exp() takes. The division comes last, so that the most likely token gets 0 at any
// temperature.
double exponent(float logit, float max, double temperature) {
  const double x = (double{logit} - double{max}) / temperature;
  return x > -kNoWeight ? x : -kNoWeight;
}

// floor(random / 2^64 * mass): uniform in [0, mass).
uint64_t scale_random(uint64_t random, uint64_t mass) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>((Wide{random} * mass) >> 64);
}

// The least mass that is at least a fraction top_p of the total.
uint64_t nucleus_mass(double top_p, uint64_t total) {
  if (top_p >= 1) return total;
  const double wanted = std::ceil(top_p * static_cast<double>(total));
  return wanted >= static_cast<double>(total) ? total : std::max<uint64_t>(static_cast<uint64_t>(wanted), 1);
}

}  // namespace

bool is_stop_token(int32_t token, const SamplingParams& params, std::span<const int32_t> eos_token_ids) {
  if (!params.ignore_eos && std::ranges::find(eos_token_ids, token) != eos_token_ids.end()) return true;
  return std::ranges::find(params.stop_token_ids, token) != params.stop_token_ids.end();
}

Sampler::Sampler(int64_t vocab_size)
    : adjusted_(static_cast<size_t>(vocab_size)),
      output_count_(static_cast<size_t>(vocab_size)),
      seen_(static_cast<size_t>(vocab_size)),
      weights_(static_cast<size_t>(vocab_size)),
      bucket_of_(static_cast<size_t>(vocab_size)),
      bucket_weight_(kBuckets) {
  CHORALE_CHECK(vocab_size >= 1 && vocab_size <= kMaxVocabulary, "a vocabulary of {} tokens", vocab_size);
  candidates_.reserve(static_cast<size_t>(vocab_size));
}

Sampled Sampler::sample(const SampleInput& input) {
  CHORALE_CHECK(input.logits.size() == adjusted_.size());
  RowSummary summary = summarize(input.logits);
  if (!summary.usable) return {SampleStatus::bad_logits};
  std::span<const float> logits = input.logits;
  if (changes_logits(input)) {
    std::ranges::copy(input.logits, adjusted_.begin());
    apply_penalties(input);
    mask_stop_tokens(input);
    logits = adjusted_;
    if (input.allowed.empty()) summary = summarize(logits);
  }
  if (!input.allowed.empty()) {
    CHORALE_CHECK(input.allowed.size() * 32 >= logits.size());
    summary = copy_allowed(logits, input.allowed, adjusted_);
    logits = adjusted_;
  }
  if (!summary.usable) return {SampleStatus::all_masked};
  const SamplingParams& params = input.params;
  if (params.temperature == 0) return {SampleStatus::ok, first_equal(logits, summary.max)};

  max_ = summary.max;
  min_ = summary.min;
  temperature_ = params.temperature;
  const uint64_t position = input.prompt.size() + input.output.size();
  const uint64_t random = random_bits(input.seed, params.choice_index, position);
  const bool all = params.top_k <= 0 || params.top_k >= static_cast<int64_t>(logits.size());
  return {SampleStatus::ok,
          all ? sample_from_all(logits, params, random) : sample_from_top_k(logits, params, random)};
}

void Sampler::apply_penalties(const SampleInput& input) {
  const SamplingParams& p = input.params;
  for (const auto& [token, bias] : p.logit_bias) {
    float& logit = adjusted_[static_cast<size_t>(token)];
    if (logit != -kInfinity) logit = bounded(double{logit} + double{bias});
  }
  if (p.repetition_penalty == 1 && p.frequency_penalty == 0 && p.presence_penalty == 0) return;

  for (const int32_t token : input.output) ++output_count_[static_cast<size_t>(token)];
  auto apply_once = [&](int32_t token) {
    const auto i = static_cast<size_t>(token);
    float& logit = adjusted_[i];
    if (seen_[i] != 0) return;
    seen_[i] = 1;
    if (logit == -kInfinity) return;
    const double repeated = logit > 0 ? logit / p.repetition_penalty : logit * p.repetition_penalty;
    const uint32_t count = output_count_[i];
    const double present = count > 0 ? p.presence_penalty : 0.0;
    logit = bounded(repeated - p.frequency_penalty * count - present);
  };
  for (const int32_t token : input.output) apply_once(token);
  for (const int32_t token : input.prompt) apply_once(token);

  for (const int32_t token : input.output) output_count_[static_cast<size_t>(token)] = 0;
  for (const int32_t token : input.output) seen_[static_cast<size_t>(token)] = 0;
  for (const int32_t token : input.prompt) seen_[static_cast<size_t>(token)] = 0;
}

// Before min_new_tokens.
void Sampler::mask_stop_tokens(const SampleInput& input) {
  const SamplingParams& p = input.params;
  if (static_cast<int64_t>(input.output.size()) >= p.min_new_tokens) return;
  for (const int32_t token : p.stop_token_ids) adjusted_[static_cast<size_t>(token)] = -kInfinity;
  if (p.ignore_eos) return;
  for (const int32_t token : input.eos_token_ids) {
    if (token >= 0 && static_cast<size_t>(token) < adjusted_.size())
      adjusted_[static_cast<size_t>(token)] = -kInfinity;
  }
}

uint64_t Sampler::weight_of(float logit) const {
  return fixed_point_exp(exponent(logit, max_, temperature_));
}

void Sampler::weigh_all(std::span<const float> logits) {
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
    for (size_t i = 0; i < size; ++i) x[i] = exponent(logit[i], max, temperature);
    for (size_t i = 0; i < size; ++i) weight[i] = fixed_point_exp(x[i]);
  }
}

// The most likely tokens, sorted, by a bounded heap whose top is the least likely one kept.
void Sampler::collect_top(std::span<const float> logits, size_t count) {
  candidates_.clear();
  count = std::min(count, logits.size());
  if (count == 0) return;
  for (size_t i = 0; i < count; ++i) candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  std::ranges::make_heap(candidates_, std::less{});
  for (size_t i = count; i < logits.size(); ++i) {
    // Ids ascend, so an equal logit comes after those kept.
    if (!(logits[i] > candidates_.front().logit)) continue;
    std::pop_heap(candidates_.begin(), candidates_.end());
    candidates_.back() = {logits[i], static_cast<int32_t>(i)};
    std::push_heap(candidates_.begin(), candidates_.end());
  }
  std::sort_heap(candidates_.begin(), candidates_.end());
}

// The first candidate at which the running mass exceeds `mass`.
Sampler::Found Sampler::find_in_candidates(uint64_t mass, uint64_t mass_before) const {
  uint64_t running = mass_before;
  for (const Candidate& candidate : candidates_) {
    running += weight_of(candidate.logit);
    if (running > mass) return {candidate.token, running};
  }
  CHORALE_CHECK(false, "mass {} is beyond the total of {}", mass, running);
  return {};
}

int32_t Sampler::sample_from_top_k(std::span<const float> logits, const SamplingParams& params,
                                   uint64_t random) {
  collect_top(logits, static_cast<size_t>(params.top_k));
  const double least_weight = params.min_p * kWeightOne;
  uint64_t total = 0;
  uint64_t min_p_mass = 0;
  for (const Candidate& candidate : candidates_) {
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

int32_t Sampler::sample_from_all(std::span<const float> logits, const SamplingParams& params,
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
void Sampler::assign_buckets(std::span<const float> logits) {
  const double range = std::min(double{max_} - double{min_}, kNoWeight * temperature_);
  const float scale = bounded(static_cast<double>(kBuckets) / std::max(range, 1e-30));
  constexpr auto kLast = static_cast<float>(kBuckets - 1);
  for (size_t i = 0; i < logits.size(); ++i) {
    const float bucket = (max_ - logits[i]) * scale;
    bucket_of_[i] = static_cast<uint16_t>(static_cast<int32_t>(bucket < kLast ? bucket : kLast));
  }
}

void Sampler::collect_bucket(std::span<const float> logits, uint16_t bucket) {
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (bucket_of_[i] == bucket) candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  }
  // Equal logits are in order already.
  if (!std::ranges::is_sorted(candidates_, std::less{})) std::sort(candidates_.begin(), candidates_.end());
}

Sampler::Found Sampler::find_in_buckets(std::span<const float> logits, uint64_t mass) {
  uint64_t running = 0;
  size_t bucket = 0;
  while (bucket < kBuckets && running + bucket_weight_[bucket] <= mass) running += bucket_weight_[bucket++];
  CHORALE_CHECK(bucket < kBuckets, "mass {} is beyond the total of {}", mass, running);
  collect_bucket(logits, static_cast<uint16_t>(bucket));
  return find_in_candidates(mass, running);
}

std::optional<TokenLogprobs> Sampler::logprobs(std::span<const float> logits, int32_t token,
                                               int32_t num_top) {
  CHORALE_CHECK(logits.size() == adjusted_.size() && num_top >= 0);
  const RowSummary summary = summarize(logits);
  if (!summary.usable) return std::nullopt;
  max_ = summary.max;
  temperature_ = 1;
  weigh_all(logits);
  const uint64_t sum = std::accumulate(weights_.begin(), weights_.end(), uint64_t{0});
  // The maximum is taken off first, so that a large one does not swallow the logarithm.
  const double max = summary.max;
  const double log_sum = std::log(static_cast<double>(sum) / kWeightOne);
  auto logprob = [&](float logit) { return static_cast<float>(double{logit} - max - log_sum); };
  TokenLogprobs result;
  result.logprob = logprob(logits[static_cast<size_t>(token)]);
  collect_top(logits, static_cast<size_t>(num_top));
  result.top.reserve(candidates_.size());
  for (const Candidate& candidate : candidates_) {
    result.top.emplace_back(candidate.token, logprob(candidate.logit));
  }
  return result;
}

}  // namespace chorale::engine
