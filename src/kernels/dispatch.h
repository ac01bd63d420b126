// Sends tokens to the ranks that own their experts, and adds up what comes back.
//
// A token's row travels once to each rank that owns one of its experts, together with the chosen experts and
// their gate weights. A travelling row is bytes: the activations [H], then k local slots (int32, -1 for an
// expert of another rank), then k gate weights (float32).
#pragma once

#include <cstdint>

#include "base/stream.h"
#include "base/tensor.h"
#include "kernels/route.h"

namespace chorale {

// Which physical slot this rank uses for each logical expert. Slots are numbered over all expert-parallel
// ranks, slots_per_rank each; the `copies` ranks that split an expert are neighbours, and all get the row.
struct DispatchTable {
  Tensor slots;  // int32 [variants, logical experts]: a token t takes row (t + expert) % variants; usually
                 // there is one
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

  // Views of rows that have arrived (uint8 [R, bytes()]).
  Tensor activations(const Tensor& rows) const;
  ChosenExperts chosen(const Tensor& rows) const;
};

// What dispatch_rows writes. With room for the S rows that there will be, or more: how many there are, the
// device alone knows.
struct SendBuffers {
  Tensor counts;        // int64 [1, ranks]: how many rows go to each rank of the expert group
  Tensor tokens;        // int32 [1, S]: the token of each row, by rank and then by token
  Tensor rows;          // uint8 [S, RowFormat::bytes()]
  Tensor owner_tokens;  // int32 [num_owners, U]: scratch
};

// Writes the rows of the home tokens for all ranks. x: activations [U, H].
void dispatch_rows(const Stream& stream, const Tensor& x, const ChosenExperts& chosen,
                   const DispatchTable& table, const RowFormat& format, const SendBuffers& send);

// sums[tokens[i]] += returned[i] for every i below the sum of `counts`, which is at most S. returned: int64
// [S, N]; tokens: int32 [1, S or more]; counts: int64 [1, ranks]; sums: int64 [U, N].
void add_returned(const Stream& stream, const Tensor& returned, const Tensor& tokens, const Tensor& counts,
                  const Tensor& sums);

// counts[experts[t][i]] += 1. experts: int32 [U, k]; counts: int64 [1, E].
void count_experts(const Stream& stream, const Tensor& experts, const Tensor& counts);

// The same where every token goes to the one expert: counts[0] += num_tokens. counts: int64 [1, E].
void count_tokens(const Stream& stream, int64_t num_tokens, const Tensor& counts);

}  // namespace chorale
