// Sends tokens to the ranks that own their experts, and adds up what comes back.
//
// A token's row travels once to each rank that owns one of its experts, together with the chosen experts and
// their gate weights. A travelling row is bytes: the activations [H], then k local slots (int32, -1 for an
// expert of another rank), then k gate weights (float32).
#pragma once

#include <cstdint>
#include <span>

#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/route.h"

namespace chorale {

// Which physical slot this rank uses for each logical expert. Slots are numbered over all expert-parallel
// ranks, slots_per_rank each; the `copies` ranks that split an expert are neighbours, and all get the row.
struct DispatchTable {
  Tensor slots;  // int32 [variants, E]: a token t takes row (t + expert) % variants; usually there is one
  int64_t slots_per_rank = 0;
  int64_t num_owners = 1;  // expert-parallel ranks
  int64_t copies = 1;      // ranks that split an expert
};

// Layout of a travelling row.
struct RowFormat {
  DType act = DType::bf16;
  int64_t hidden = 0;
  int64_t top_k = 0;
  int64_t slots_offset() const { return (hidden * static_cast<int64_t>(size_of(act)) + 3) / 4 * 4; }
  int64_t weights_offset() const { return slots_offset() + 4 * top_k; }
  int64_t bytes() const { return (weights_offset() + 4 * top_k + 63) / 64 * 64; }

  // Views of received rows (uint8 [R, bytes()]).
  Tensor activations(const Tensor& rows) const;
  ChosenExperts chosen(const Tensor& rows) const;
};

// Fills sent_rows[rank] with the number of rows for each rank of the group, sent_tokens (int32 [1, >= total])
// with the token of each row, by rank and then by token, and `send` (uint8 [>= total, format.bytes()]) with
// the rows. x: activations [T, H]. Returns the total. scratch: int32 [num_owners, T].
int64_t dispatch_rows(const Stream& stream, const Tensor& x, const ChosenExperts& chosen,
                      const DispatchTable& table, const RowFormat& format, std::span<int64_t> sent_rows,
                      const Tensor& sent_tokens, const Tensor& scratch, const Tensor& send);

// sums[tokens[i]] += returned[i] for every i. returned: int64 [S, N]; tokens: int32 [1, S]; sums: int64 [T,
// N].
void add_returned(const Stream& stream, const Tensor& returned, const Tensor& tokens, const Tensor& sums);

// counts[experts[t][i]] += 1. experts: int32 [T, k]; counts: int64 [1, E].
void count_experts(const Stream& stream, const Tensor& experts, const Tensor& counts);

// The same where every token goes to the one expert: counts[0] += num_tokens. counts: int64 [1, E].
void count_tokens(const Stream& stream, int64_t num_tokens, const Tensor& counts);

}  // namespace chorale
