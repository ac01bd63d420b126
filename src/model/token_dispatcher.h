// Brings tokens to the ranks that own their experts, and their results home (arXiv 2006.16668; the sparse
// all-to-all of arXiv 2101.03961). A token travels once to each rank that owns one of its experts, and one
// fixed-point row comes back from each and is added at home, so neither the placement nor the order shows in
// the result. How many rows travel is known on the device; the host goes by what it has room for, or by what
// its transport tells it.
#pragma once

#include "base/stream.h"
#include "base/tensor.h"
#include "comm/communicator.h"
#include "kernels/dispatch.h"
#include "kernels/expert_matmul.h"
#include "kernels/route.h"
#include "model/rank_plan.h"
#include "model/workspace.h"

namespace chorale::model {

// The tokens that a rank's experts work on.
struct ExpertInput {
  Tensor x;         // activations [R, H]
  ExpertRows rows;  // this rank's experts take them; default: one expert takes all
  Tensor sums;      // int64 [R, H + 1]: where the experts add their results
};

class TokenDispatcher {
 public:
  // `table` is this rank's choice of slots, one row per layer variant; it must outlive the dispatcher.
  TokenDispatcher(const RowFormat& format, const DispatchTable& table, comm::Communicator group);

  // x: activations of the home tokens [U, H], each with its chosen (logical) experts. most_tokens: no rank of
  // the group has more of them.
  ExpertInput dispatch(const Stream& stream, const Tensor& x, const ChosenExperts& chosen,
                       int64_t most_tokens, const Workspace& scratch);

  // The sums of the home tokens [U, H + 1], once the experts have added theirs to input.sums.
  Tensor combine(const Stream& stream, const ExpertInput& input, int64_t num_tokens, int64_t most_tokens,
                 const Workspace& scratch);

 private:
  // The rows of a buffer that a step may need: a rank sends each other one its home tokens at the most.
  Tensor room(const Tensor& rows, int64_t most_tokens) const;

  RowFormat format_;
  DispatchTable table_;
  comm::Communicator group_;
};

}  // namespace chorale::model
