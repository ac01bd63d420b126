// The op of sample.h: kernels over parts of rows adjust and weigh all tokens, and a block of threads for each
// row chooses. It looks for the token at which a running sum of weights, in the order of sampling, exceeds a
// number: the sums of intervals of logits tell in which interval it is, and the tokens of that one alone are
// ordered, digit by digit.
#include <limits>

#include "base/random.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/layout.h"
#include "kernels/cuda/sample.cuh"
#include "kernels/cuda/sample.h"

namespace chorale::cuda {
namespace {

constexpr int kAdjustThreads = 256;
constexpr int kAdjustTokens = 4096;  // of a block
constexpr int kWeighThreads = 512;
constexpr int kFewestWeighTokens = 2048;  // of a block

__global__ void __launch_bounds__(kChooseThreads) clear_rows(const __grid_constant__ SampleArgs args) {
  wait_for_previous();
  allow_next();
  const SampleRow row(args, blockIdx.x);
  if (threadIdx.x == 0) row.state() = RowState{};
  for (int i = static_cast<int>(threadIdx.x); i < kBins; i += kChooseThreads) row.bins()[i] = 0;
}

// ---- adjustments ----

// Bias of the tokens [first, end), whose logits have been copied. Entries of one token are applied in their
// order, by the thread that has the token.
__device__ void add_bias(const SampleRow& row, int first, int end) {
  const List& list = row.args.bias;
  const Entries entries(list, row.row);
  for (int i = entries.begin; i < entries.end; ++i) {
    const int token = list.tokens[i];
    if (token < first || token >= end || (token - first) % kAdjustThreads != static_cast<int>(threadIdx.x))
      continue;
    float& logit = row.adjusted()[token];
    if (logit == -kInfinity) continue;
    const float bias = static_cast<const float*>(list.values)[i];
    logit = bias == -kInfinity ? -kInfinity : bounded(double{logit} + double{bias});
  }
}

__device__ __forceinline__ float penalized(const SampleParams& p, float logit, int32_t seen) {
  if (seen == 0 || logit == -kInfinity) return logit;
  const int32_t count = seen & ~kInPrompt;
  const double repeated = logit > 0 ? logit / p.repetition_penalty : logit * p.repetition_penalty;
  const double present = count > 0 ? p.presence_penalty : 0.0;
  return bounded(repeated - p.frequency_penalty * count - present);
}

// Adjusts a part of a row, and finds its largest and smallest logits.
__global__ void __launch_bounds__(kAdjustThreads) adjust_rows(const __grid_constant__ SampleArgs args) {
  wait_for_previous();
  allow_next();
  const SampleRow row(args, blockIdx.y);
  const int first = static_cast<int>(blockIdx.x) * kAdjustTokens;
  const int end = min(first + kAdjustTokens, args.vocab_size);
  const bool is_adjusted = row.is_adjusted();
  const float* raw = row.raw();
  unsigned raw_best = 0, best_order = 0, least = 0;
  int best_token = 0;
  bool is_bad = false;
  const auto summarize = [&](int t, float logit) {
    const unsigned order = order_of(logit);
    if (order > best_order) {
      best_order = order;
      best_token = t;
    }
    if (logit > -kInfinity) least = max(least, ~order);
  };
  visit<kAdjustThreads>(raw, first, end, [&](int t, float logit) {
    is_bad |= !(logit < kInfinity);
    raw_best = max(raw_best, order_of(logit));
    if (is_adjusted)
      row.adjusted()[t] = logit;
    else
      summarize(t, logit);
  });
  if (is_adjusted) {
    __syncthreads();
    add_bias(row, first, end);
    __syncthreads();
    const bool is_masked = row.params.is_masked != 0;
    const int32_t* counts = row.penalizes() ? row.counts() : nullptr;
    for (int t = first + static_cast<int>(threadIdx.x); t < end; t += kAdjustThreads) {
      float logit = row.adjusted()[t];
      if (counts != nullptr) logit = penalized(row.params, logit, counts[t]);
      if (is_masked && (args.allowed.row(row.row)[t / 32] >> (t % 32) & 1U) == 0) logit = -kInfinity;
      row.adjusted()[t] = logit;
      summarize(t, logit);
    }
  }
  Mass best = Mass{best_order} << 32U | ~static_cast<unsigned>(best_token);
  raw_best = __reduce_max_sync(kAllLanes, raw_best);
  least = __reduce_max_sync(kAllLanes, least);
  is_bad = __any_sync(kAllLanes, is_bad);
#pragma unroll
  for (int bit = kWarp / 2; bit > 0; bit /= 2) best = max(best, __shfl_xor_sync(kAllLanes, best, bit));
  if (threadIdx.x % kWarp != 0) return;
  RowState& state = row.state();
  atomicMax(&state.raw_best, raw_best);
  atomicMax(&state.least, least);
  atomicMax(&state.best, best);
  if (is_bad) atomicOr(&state.is_bad, 1);
}

// ---- weights ----

__device__ __forceinline__ bool is_drawn(const SampleRow& row) {
  return !row.is_given() && row.params.temperature != 0 && row.state().has_tokens();
}

__global__ void __launch_bounds__(kWeighThreads)
    weigh_rows(const __grid_constant__ SampleArgs args, int block_tokens) {
  __shared__ Bins bins;
  wait_for_previous();
  allow_next();
  const SampleRow row(args, blockIdx.y);
  RowState& state = row.state();
  const SampleParams& p = row.params;
  if (!state.is_usable()) return;
  const int first = static_cast<int>(blockIdx.x) * block_tokens;
  const int end = min(first + block_tokens, args.vocab_size);
  if (is_drawn(row)) {
    const Weigh weigh{state.max(), p.temperature};
    const Intervals intervals(state.max(), logit_of(~state.least), p.temperature);
    const double least_likely = p.min_p * kWeightOne;
    bins.clear();
    __syncthreads();
    Mass total = 0, likely = 0;
    visit<kWeighThreads>(row.logits(), first, end, [&](int, float logit) {
      const Mass weight = weigh(logit);
      if (weight == 0) return;
      bins.add(intervals.of(logit), weight);
      total += weight;
      if (static_cast<double>(weight) >= least_likely) likely += weight;
    });
    total = add_masses_over_warp(total);
    likely = add_masses_over_warp(likely);
    if (threadIdx.x % kWarp == 0) {
      atomicAdd(&state.total, total);
      atomicAdd(&state.likely, likely);
    }
    __syncthreads();
    for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kWeighThreads) {
      const Mass mass = bins.at(bin);
      if (mass != 0) atomicAdd(&row.bins()[bin], mass);
    }
  }
  if (p.num_top < 0) return;
  const Weigh weigh{state.raw_max(), 1};
  Mass total = 0;
  visit<kWeighThreads>(row.raw(), first, end, [&](int, float logit) { total += weigh(logit); });
  total = add_masses_over_warp(total);
  if (threadIdx.x % kWarp == 0) atomicAdd(&state.raw_total, total);
}

// ---- choosing: a block has a row ----

// The places of the tokens whose interval is `only`, or up to it, in any order. Returns how many.
template <bool up_to>
__device__ int collect(ChooseMemory& memory, const SampleRow& row, const float* logits,
                       const Intervals& intervals, int only) {
  if (threadIdx.x == 0) memory.count = 0;
  __syncthreads();
  visit<kChooseThreads>(logits, 0, row.args.vocab_size, [&](int t, float logit) {
    const int interval = intervals.of(logit);
    if (up_to ? interval <= only : interval == only)
      row.places()[atomicAdd(&memory.count, 1)] = place_of(logit, t);
  });
  __syncthreads();
  return memory.count;
}

struct FoundPlace {
  uint64_t place = 0;
  Mass mass = 0;  // of all up to it
};

// Of at most as many places as there are threads: each thread adds up what comes before its own.
template <class Weight>
__device__ FoundPlace find_in_few(ChooseMemory& memory, const uint64_t* places, int count, Mass target,
                                  const Weight& weight) {
  const int own = static_cast<int>(threadIdx.x);
  if (own < count) {
    memory.few.places[own] = places[own];
    memory.few.masses[own] = weight(logit_of_place(places[own]));
  }
  __syncthreads();
  if (own < count) {
    const uint64_t place = memory.few.places[own];
    Mass before = 0;
#pragma unroll 4
    for (int i = 0; i < count; ++i) before += memory.few.places[i] < place ? memory.few.masses[i] : 0;
    const Mass with_own = before + memory.few.masses[own];
    if (before <= target && target < with_own) {
      memory.found_place = place;
      memory.found_mass = with_own;
    }
  }
  __syncthreads();
  const FoundPlace found{memory.found_place, memory.found_mass};
  __syncthreads();
  return found;
}

// Of `count` collected places: the first at which the running sum exceeds `target`.
template <class Weight>
__device__ FoundPlace find_place(ChooseMemory& memory, const uint64_t* places, int count, Mass target,
                                 const Weight& weight) {
  if (count <= kChooseThreads) return find_in_few(memory, places, count, target, weight);
  constexpr int kDigit = 11;
  static_assert(kBins == 1 << kDigit);
  FoundPlace found;  // the digits so far, and the sum before them
  for (int left = kPlaceBits; left > 0;) {
    const int bits = min(left, kDigit), shift = left - bits;
    memory.bins.clear();
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kChooseThreads) {
      const uint64_t place = places[i];
      if (place >> left != found.place) continue;
      memory.bins.add(static_cast<int>(place >> shift & ((1U << bits) - 1U)), weight(logit_of_place(place)));
    }
    __syncthreads();
    const ChooseMemory::Found digit = memory.find(target - found.mass);
    found = {found.place << bits | static_cast<unsigned>(digit.bin), found.mass + digit.before};
    left = shift;
  }
  found.mass += weight(logit_of_place(found.place));
  return found;
}

// The first token at which the running sum of weights exceeds `target`.
__device__ FoundPlace find_mass(ChooseMemory& memory, const SampleRow& row, const Intervals& intervals,
                                const Weigh& weigh, Mass target) {
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kChooseThreads)
    memory.bins.set(bin, row.bins()[bin]);
  __syncthreads();
  const ChooseMemory::Found interval = memory.find(target);
  const int count = collect<false>(memory, row, row.logits(), intervals, interval.bin);
  FoundPlace found = find_place(memory, row.places(), count, target - interval.before, weigh);
  found.mass += interval.before;
  return found;
}

// The interval of the count-th most likely token, and how many tokens are in those before.
__device__ ChooseMemory::Found find_count(ChooseMemory& memory, const SampleRow& row, const float* logits,
                                          const Intervals& intervals, int count) {
  memory.bins.clear();
  __syncthreads();
  visit<kChooseThreads>(logits, 0, row.args.vocab_size,
                        [&](int, float logit) { memory.bins.count(intervals.of(logit)); });
  __syncthreads();
  return memory.find(static_cast<Mass>(count - 1));
}

// The sum of the weights of the top_k most likely tokens.
__device__ Mass top_k_mass(ChooseMemory& memory, const SampleRow& row, const Intervals& intervals,
                           const Weigh& weigh) {
  const int top_k = row.params.top_k;
  const ChooseMemory::Found interval = find_count(memory, row, row.logits(), intervals, top_k);
  const int count = collect<false>(memory, row, row.logits(), intervals, interval.bin);
  const FoundPlace last =
      find_place(memory, row.places(), count, static_cast<Mass>(top_k - 1) - interval.before, Count{});
  Mass mass = 0;
  for (int bin = static_cast<int>(threadIdx.x); bin < interval.bin; bin += kChooseThreads)
    mass += row.bins()[bin];
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kChooseThreads) {
    const uint64_t place = row.places()[i];
    if (place <= last.place) mass += weigh(logit_of_place(place));
  }
  return memory.add(mass);
}

// By the parameters of a row that has tokens.
__device__ int draw(ChooseMemory& memory, const SampleRow& row) {
  const SampleParams& p = row.params;
  const RowState& state = row.state();
  if (p.temperature == 0) return state.best_token();
  const Weigh weigh{state.max(), p.temperature};
  const Intervals intervals(state.max(), logit_of(~state.least), p.temperature);
  const bool has_top_k = p.top_k > 0 && p.top_k < row.args.vocab_size;
  const Mass total = has_top_k ? top_k_mass(memory, row, intervals, weigh) : state.total;
  // Every filter keeps a prefix of the same order, so the smallest mass is the strictest filter's.
  Mass mass = min(total, state.likely);
  if (p.top_p < 1)
    mass = min(mass, find_mass(memory, row, intervals, weigh, Mass{nucleus_mass(p.top_p, total)} - 1).mass);
  const Mass random = scale_random(random_bits(p.seed, p.random_stream, p.position), mass);
  return token_of_place(find_mass(memory, row, intervals, weigh, random).place);
}

// Of the chosen token and of the most likely ones, before adjustments.
__device__ void write_logprobs(ChooseMemory& memory, const SampleRow& row, int token) {
  const SampleArgs& args = row.args;
  const float* raw = row.raw();
  // The maximum is taken off first, so that a large one does not swallow the logarithm.
  const double max = row.state().raw_max();
  const double log_sum = log(static_cast<double>(row.state().raw_total) / kWeightOne);
  const auto logprob = [&](float logit) { return static_cast<float>(double{logit} - max - log_sum); };
  float* logprobs = args.logprobs.row(row.row);
  if (threadIdx.x == 0) logprobs[0] = logprob(raw[token]);
  const int kept = min(min(row.params.num_top, args.num_top), args.vocab_size);
  for (int i = kept + static_cast<int>(threadIdx.x); i < args.num_top; i += kChooseThreads) {
    args.top_tokens.row(row.row)[i] = -1;
    logprobs[1 + i] = -kInfinity;
  }
  if (kept <= 0) return;
  const Intervals intervals(row.state().raw_max(), -kInfinity, 1);
  const ChooseMemory::Found interval = find_count(memory, row, raw, intervals, kept);
  int count = collect<true>(memory, row, raw, intervals, interval.bin);
  const uint64_t* places = row.places();
  const FoundPlace last = find_place(memory, places, count, static_cast<Mass>(kept - 1), Count{});
  // Where a few of many are kept, they are moved together; the adjusted logits are no longer needed.
  if (2 * int64_t{kept} <= args.vocab_size) {
    auto* few = reinterpret_cast<uint64_t*>(row.adjusted());
    if (threadIdx.x == 0) memory.count = 0;
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < count; i += kChooseThreads)
      if (places[i] <= last.place) few[atomicAdd(&memory.count, 1)] = places[i];
    __syncthreads();
    places = few;
    count = kept;
  }
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kChooseThreads) {
    const uint64_t place = places[i];
    if (place > last.place) continue;
    int rank = 0;
    for (int j = 0; j < count; ++j) rank += places[j] < place ? 1 : 0;
    args.top_tokens.row(row.row)[rank] = token_of_place(place);
    logprobs[1 + rank] = logprob(raw[token_of_place(place)]);
  }
}

__global__ void __launch_bounds__(kChooseThreads) choose_tokens(const __grid_constant__ SampleArgs args) {
  __shared__ ChooseMemory memory;
  wait_for_previous();
  allow_next();
  const SampleRow row(args, blockIdx.x);
  const RowState& state = row.state();
  SampleStatus status = SampleStatus::ok;
  if (!state.is_usable())
    status = SampleStatus::bad_logits;
  else if (!row.is_given() && !state.has_tokens())
    status = SampleStatus::all_masked;
  int token = -1;
  if (status == SampleStatus::ok) token = row.is_given() ? row.params.given_token : draw(memory, row);
  if (threadIdx.x == 0) {
    args.tokens[row.row] = token;
    args.statuses[row.row] = static_cast<int32_t>(status);
    if (token >= 0 && !row.is_given() && row.counts() != nullptr) ++row.counts()[token];
  }
  if (status == SampleStatus::ok && row.params.num_top >= 0) write_logprobs(memory, row, token);
}

// ---- counts ----

__global__ void __launch_bounds__(kAdjustThreads) clear_counts_kernel(int32_t* counts, int64_t size) {
  wait_for_previous();
  allow_next();
  const int64_t t = int64_t{blockIdx.x} * kAdjustThreads + threadIdx.x;
  if (t < size) counts[t] = 0;
}

__global__ void __launch_bounds__(kAdjustThreads)
    count_tokens_kernel(const int32_t* tokens, int64_t size, bool in_prompt, int32_t* counts,
                        int64_t vocab_size) {
  wait_for_previous();
  allow_next();
  const int64_t i = int64_t{blockIdx.x} * kAdjustThreads + threadIdx.x;
  if (i >= size || tokens[i] < 0 || tokens[i] >= vocab_size) return;
  if (in_prompt)
    atomicOr(&counts[tokens[i]], kInPrompt);
  else
    atomicAdd(&counts[tokens[i]], 1);
}

// ---- what is computed next ----

__global__ void __launch_bounds__(kAdjustThreads)
    place_tokens_kernel(const int32_t* sampled, int64_t num_rows, const int32_t* rows, int64_t size,
                        int32_t* token_ids) {
  wait_for_previous();
  allow_next();
  const int64_t t = int64_t{blockIdx.x} * kAdjustThreads + threadIdx.x;
  if (t >= size || rows[t] < 0) return;
  token_ids[t] = rows[t] < num_rows ? max(sampled[rows[t]], 0) : 0;
}

List list_of(const SparseRows& rows) {
  if (rows.offsets.empty()) return {};
  return {rows.offsets.device_data<int32_t>(), rows.tokens.device_data<int32_t>(),
          rows.values.device_bytes()};
}

}  // namespace

int64_t sample_scratch_bytes(int64_t vocab_size) {
  const int64_t places = static_cast<int64_t>(sizeof(uint64_t)) * (vocab_size + ceil_div(vocab_size, 2));
  return round_up(static_cast<int64_t>(sizeof(RowState) + kBins * sizeof(Mass)) + places, 64);
}

void sample(const Queue& queue, const SampleRows& input, const Tensor& scratch, const SampledRows& output) {
  const int64_t rows = input.logits.rows(), vocab_size = input.logits.columns();
  if (rows == 0) return;
  static_assert(sizeof(RowState) % sizeof(Mass) == 0);
  CHORALE_CHECK(input.params.row_stride() % alignof(SampleParams) == 0);
  SampleArgs args{.logits = rows_of<const float>(input.logits),
                  .vocab_size = static_cast<int>(vocab_size),
                  .params = input.params.device_bytes(),
                  .params_stride = input.params.row_stride(),
                  .bias = list_of(input.bias),
                  .counts = rows_of<int32_t>(input.counts),
                  .allowed = rows_of<const unsigned>(input.allowed),
                  .scratch = scratch.device_bytes(),
                  .scratch_stride = scratch.row_stride(),
                  .tokens = output.tokens.device_data<int32_t>(),
                  .statuses = output.statuses.device_data<int32_t>(),
                  .logprobs = rows_of<float>(output.logprobs),
                  .top_tokens = rows_of<int32_t>(output.top_tokens),
                  .num_top = static_cast<int>(output.top_tokens.columns())};
  for (int64_t first = 0; first < rows; first += scratch.rows()) {
    args.first_row = first;
    const auto count = static_cast<unsigned>(std::min(scratch.rows(), rows - first));
    launch(queue, "sample", clear_rows, {dim3(count), kChooseThreads}, args);
    launch(queue, "sample", adjust_rows, {dim3(blocks_for(vocab_size, kAdjustTokens), count), kAdjustThreads},
           args);
    // Four blocks fit on a multiprocessor, and of few rows all should have some.
    const int64_t blocks = std::max<int64_t>(4 * queue.num_multiprocessors() / count, 1);
    const int64_t block_tokens = std::max<int64_t>(ceil_div(vocab_size, blocks), kFewestWeighTokens);
    launch(queue, "sample", weigh_rows, {dim3(blocks_for(vocab_size, block_tokens), count), kWeighThreads},
           args, static_cast<int>(block_tokens));
    launch(queue, "sample", choose_tokens, {dim3(count), kChooseThreads}, args);
  }
}

void place_tokens(const Queue& queue, const Tensor& sampled, const Tensor& rows, const Tensor& token_ids) {
  launch(queue, "place_tokens", place_tokens_kernel,
         {dim3(blocks_for(rows.columns(), kAdjustThreads)), kAdjustThreads}, sampled.device_data<int32_t>(),
         sampled.columns(), rows.device_data<int32_t>(), rows.columns(), token_ids.device_data<int32_t>());
}

void clear_counts(const Queue& queue, const Tensor& counts) {
  launch(queue, "clear_counts", clear_counts_kernel,
         {dim3(blocks_for(counts.columns(), kAdjustThreads)), kAdjustThreads}, counts.device_data<int32_t>(),
         counts.columns());
}

void count_tokens(const Queue& queue, const Tensor& tokens, bool in_prompt, const Tensor& counts) {
  launch(queue, "count_tokens", count_tokens_kernel,
         {dim3(blocks_for(tokens.columns(), kAdjustThreads)), kAdjustThreads}, tokens.device_data<int32_t>(),
         tokens.columns(), in_prompt, counts.device_data<int32_t>(), counts.columns());
}

}  // namespace chorale::cuda
