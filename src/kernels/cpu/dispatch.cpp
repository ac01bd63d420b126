// dispatch.h on the CPU.
#include "kernels/dispatch.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/cpu/ops.h"

namespace chorale::cpu {
namespace {

int32_t slot_of(const DispatchTable& table, int64_t token, int32_t expert) {
  const int64_t row = table.slots.rows() == 1 ? 0 : (token + expert) % table.slots.rows();
  return table.slots.row<int32_t>(row)[expert];
}

// What rows are made of.
struct RowSource {
  const Tensor& x;
  const ChosenExperts& chosen;
  const DispatchTable& table;
  const RowFormat& format;
};

// The travelling row of a token to a rank, whose slots are [owner * slots_per_rank, + slots_per_rank).
void write_row(const RowSource& source, int64_t token, int64_t owner, std::byte* out) {
  const auto& [x, chosen, table, format] = source;
  const auto act_bytes = static_cast<size_t>(format.hidden) * size_of(format.act);
  std::memset(out + act_bytes, 0,
              static_cast<size_t>(format.bytes()) - act_bytes);  // what pads a row is finite
  std::memcpy(out, x.bytes() + token * x.row_stride() * static_cast<int64_t>(size_of(format.act)), act_bytes);
  for (int64_t i = 0; i < format.top_k; ++i) {
    const int64_t slot =
        slot_of(table, token, chosen.experts.row<int32_t>(token)[i]) - owner * table.slots_per_rank;
    const bool mine = slot >= 0 && slot < table.slots_per_rank;
    const auto local = static_cast<int32_t>(mine ? slot : -1);
    std::memcpy(out + format.slots_offset() + 4 * i, &local, 4);
    std::memcpy(out + format.weights_offset() + 4 * i, chosen.weights.row<float>(token) + i, 4);
  }
}

}  // namespace

void dispatch_rows(const Stream& stream, const Tensor& x, const ChosenExperts& chosen,
                   const DispatchTable& table, const RowFormat& format, const SendBuffers& send) {
  // The tokens of each owner, in order and each once.
  auto* counts = send.counts.data<int64_t>();
  std::fill_n(counts, table.num_owners * table.copies, 0);
  const auto count_of = [&](int64_t owner) -> int64_t& { return counts[owner * table.copies]; };
  for (int64_t t = 0; t < x.rows(); ++t) {
    for (int64_t i = 0; i < format.top_k; ++i) {
      const int64_t owner = slot_of(table, t, chosen.experts.row<int32_t>(t)[i]) / table.slots_per_rank;
      int64_t& count = count_of(owner);
      int32_t* tokens = send.owner_tokens.row<int32_t>(owner);
      if (count == 0 || tokens[count - 1] != t) tokens[count++] = static_cast<int32_t>(t);
    }
  }
  int64_t total = 0;
  auto* tokens = send.tokens.data<int32_t>();
  for (int64_t owner = 0; owner < table.num_owners; ++owner) {
    const int64_t count = count_of(owner);
    for (int64_t copy = 0; copy < table.copies; ++copy) {
      counts[owner * table.copies + copy] = count;
      CHORALE_CHECK(total + count <= send.tokens.columns() && total + count <= send.rows.rows(),
                    "{} rows to send", total);
      std::copy_n(send.owner_tokens.row<int32_t>(owner), count, tokens + total);
      total += count;
    }
  }
  // Rows are written by owner, since what they hold depends on it.
  const RowSource source{x, chosen, table, format};
  int64_t first = 0;
  for (int64_t rank = 0; rank < table.num_owners * table.copies; ++rank) {
    const int64_t count = counts[rank];
    stream.pool().parallel(count, [&](int64_t i) {
      write_row(source, tokens[first + i], rank / table.copies,
                send.rows.bytes() + (first + i) * format.bytes());
    });
    first += count;
  }
}

void add_returned(const Stream& stream, const Tensor& returned, const Tensor& tokens, const Tensor& counts,
                  const Tensor& sums) {
  const auto* count = counts.data<int64_t>();
  const int64_t num_rows = std::accumulate(count, count + counts.columns(), int64_t{0});
  CHORALE_CHECK(num_rows <= returned.rows(), "{} rows of {}", num_rows, returned.rows());
  // A task owns a range of columns, because several rows may go to one token.
  constexpr int64_t kColumns = 512;
  const auto* token = tokens.data<int32_t>();
  stream.pool().parallel((sums.columns() + kColumns - 1) / kColumns, [&](int64_t task) {
    const int64_t begin = task * kColumns;
    const int64_t end = std::min(sums.columns(), begin + kColumns);
    for (int64_t i = 0; i < num_rows; ++i) {
      const int64_t* from = returned.row<int64_t>(i);
      int64_t* to = sums.row<int64_t>(token[i]);
      for (int64_t c = begin; c < end; ++c) to[c] += from[c];
    }
  });
}

void count_experts(const Stream&, const Tensor& experts, const Tensor& counts) {
  auto* count = counts.data<int64_t>();
  for (int64_t t = 0; t < experts.rows(); ++t) {
    for (int64_t i = 0; i < experts.columns(); ++i) ++count[experts.row<int32_t>(t)[i]];
  }
}

void count_tokens(const Stream&, int64_t num_tokens, const Tensor& counts) {
  counts.data<int64_t>()[0] += num_tokens;
}

}  // namespace chorale::cpu
