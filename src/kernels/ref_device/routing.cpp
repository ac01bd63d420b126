// route.h and dispatch.h on the reference device.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "kernels/ref/route.h"
#include "kernels/ref_device/elements.h"
#include "kernels/ref_device/ops.h"

namespace chorale::ref_device {
namespace {

// Of one token.
ref::Choice choose(const ref::Matrix& logits, const RouteOptions& options) {
  const bool has_nan = std::ranges::any_of(logits.values, [](float x) { return std::isnan(x); });
  ref::Choice choice = ref::choose_experts(has_nan ? ref::Matrix(1, logits.columns) : logits, options.top_k,
                                           options.normalize);
  if (has_nan) std::ranges::fill(choice.weights.values, std::numeric_limits<double>::quiet_NaN());
  return choice;
}

// The slots that each token's experts have: [U, k].
ref::Dense<int32_t> slots_of(const ChosenExperts& chosen, const DispatchTable& table) {
  ref::Dense<int32_t> slots = load_as<int32_t>(chosen.experts);
  const auto all = load_as<int32_t>(table.slots);
  for (int64_t t = 0; t < slots.rows; ++t) {
    for (int64_t i = 0; i < slots.columns; ++i) {
      const int32_t expert = slots.at(t, i);
      slots.at(t, i) = all.at((t + expert) % all.rows, expert);
    }
  }
  return slots;
}

// What travelling rows are made of.
struct RowSource {
  Tensor x;
  ref::Dense<int32_t> slots;  // of each token's experts
  Tensor weights;
  RowFormat format;
  int64_t slots_per_rank = 0;
};

// The row of a token to the owner of the slots from `first_slot` on.
void write_row(const RowSource& source, int64_t token, int64_t first_slot, const Tensor& row) {
  const RowFormat& format = source.format;
  std::memset(row.bytes(), 0, static_cast<size_t>(row.columns()));
  std::memcpy(row.bytes(), source.x.middle_rows(token, 1).bytes(),
              static_cast<size_t>(format.hidden) * size_of(format.act));
  const ChosenExperts out = format.chosen(row);
  for (int64_t i = 0; i < format.top_k; ++i) {
    const int64_t slot = source.slots.at(token, i) - first_slot;
    const bool is_there = slot >= 0 && slot < source.slots_per_rank;
    out.experts.data<int32_t>()[i] = is_there ? static_cast<int32_t>(slot) : -1;
    out.weights.data<float>()[i] = source.weights.row<float>(token)[i];
  }
}

}  // namespace

void choose_experts(const Stream& stream, const Tensor& logits, const RouteOptions& options,
                    const ChosenExperts& chosen) {
  enqueue(stream, [=] {
    for (int64_t t = 0; t < logits.rows(); ++t) {
      const ref::Choice choice = choose(load(logits.middle_rows(t, 1)), options);
      store(choice.experts, chosen.experts.middle_rows(t, 1));
      store(choice.weights, chosen.weights.middle_rows(t, 1));
    }
  });
}

void sort_by_expert(const Stream& stream, const ChosenExperts& chosen, const ExpertRows& rows,
                    const Tensor& counts) {
  enqueue(stream, [=] {
    int64_t num_tokens = chosen.experts.rows();
    if (!counts.empty()) {
      const auto count = load_as<int64_t>(counts).values;
      num_tokens = std::min(num_tokens, std::accumulate(count.begin(), count.end(), int64_t{0}));
    }
    std::vector<ref::ExpertRow> pairs = ref::sort_by_expert(
        load_as<int32_t>(chosen.experts.first_rows(num_tokens)), load(chosen.weights.first_rows(num_tokens)));
    std::erase_if(pairs, [](const ref::ExpertRow& pair) { return pair.expert < 0; });
    const int64_t num_experts = rows.offsets.columns() - 1;
    ref::Dense<int32_t> offsets(1, num_experts + 1), active(1, num_experts + 1);
    const Tensor tokens = follow(rows.tokens), weights = follow(rows.weights);
    for (size_t r = 0; r < pairs.size(); ++r) {
      CHORALE_CHECK(pairs[r].expert < num_experts, "expert {} of {}", pairs[r].expert, num_experts);
      ++offsets.at(0, pairs[r].expert + 1);
      tokens.data<int32_t>()[r] = static_cast<int32_t>(pairs[r].token);
      weights.data<float>()[r] = pairs[r].weight;
    }
    for (int64_t e = 0; e < num_experts; ++e) {
      if (offsets.at(0, e + 1) > 0) active.at(0, ++active.at(0, 0)) = static_cast<int32_t>(e);
      offsets.at(0, e + 1) += offsets.at(0, e);
    }
    store(offsets, rows.offsets);
    store(active, rows.active);
  });
}

void dispatch_rows(const Stream& stream, const Tensor& x, const ChosenExperts& chosen,
                   const DispatchTable& table, const RowFormat& format, const SendBuffers& send) {
  enqueue(stream, [=] {
    const int64_t ranks = table.num_owners * table.copies;
    auto* counts = follow(send.counts).data<int64_t>();
    std::fill_n(counts, ranks, 0);
    int64_t total = 0;
    const RowSource source{follow(x), slots_of(chosen, table), follow(chosen.weights), format,
                           table.slots_per_rank};
    const Tensor rows = follow(send.rows), tokens = follow(send.tokens);
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const int64_t first_slot = rank / table.copies * table.slots_per_rank;
      for (int64_t t = 0; t < x.rows(); ++t) {
        const std::span experts(&source.slots.at(t, 0), static_cast<size_t>(format.top_k));
        if (std::ranges::none_of(experts, [&](int32_t slot) {
              return slot >= first_slot && slot < first_slot + table.slots_per_rank;
            }))
          continue;
        CHORALE_CHECK(total < tokens.columns() && total < rows.rows(), "{} rows to send", total);
        write_row(source, t, first_slot, rows.middle_rows(total, 1));
        tokens.data<int32_t>()[total++] = static_cast<int32_t>(t);
        ++counts[rank];
      }
    }
  });
}

void add_returned(const Stream& stream, const Tensor& returned, const Tensor& tokens, const Tensor& counts,
                  const Tensor& sums) {
  enqueue(stream, [=] {
    const auto count = load_as<int64_t>(counts).values;
    const int64_t num_rows = std::accumulate(count.begin(), count.end(), int64_t{0});
    const auto from = load_as<int64_t>(returned.first_rows(num_rows));
    auto total = load_as<int64_t>(sums);
    for (int64_t i = 0; i < from.rows; ++i) {
      const int64_t token = follow(tokens).data<int32_t>()[i];
      for (int64_t c = 0; c < from.columns; ++c) total.at(token, c) += from.at(i, c);
    }
    store(total, sums);
  });
}

void count_experts(const Stream& stream, const Tensor& experts, const Tensor& counts) {
  enqueue(stream, [=] {
    for (const int32_t expert : load_as<int32_t>(experts).values) ++follow(counts).data<int64_t>()[expert];
  });
}

void count_tokens(const Stream& stream, int64_t num_tokens, const Tensor& counts) {
  enqueue(stream, [=] { follow(counts).data<int64_t>()[0] += num_tokens; });
}

}  // namespace chorale::ref_device
