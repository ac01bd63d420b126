// The tensor-parallel group that shares the tokens of a step. Attention and dense layers need all tokens on
// every rank, and every rank has a part of the result; between them each rank keeps the rows of its home
// tokens alone. Per layer this moves what an all-reduce would, in two halves, of which the gathered one is in
// the type of activations.
#pragma once

#include <numeric>
#include <utility>

#include "base/stream.h"
#include "base/tensor.h"
#include "comm/communicator.h"
#include "model/step_inputs.h"

namespace chorale::model {

class TokenGroup {
 public:
  explicit TokenGroup(comm::Communicator group) : group_(std::move(group)) {}

  // The rows of all tokens [T, N], from everyone's home rows [., N]; in `room` when the group has several
  // ranks.
  Tensor gather(const Stream& stream, const Home& home, const Tensor& mine, const Tensor& room) const {
    if (group_.size() == 1) return mine;
    const Tensor all =
        room.first_rows(std::accumulate(home.tokens_of.begin(), home.tokens_of.end(), int64_t{0}));
    group_.all_gather_rows(stream, mine, home.tokens_of, all, comm::Purpose::attention);
    return all;
  }

  // The home rows of the sums over all ranks, from everyone's parts [T, N]; in `room` when the group has
  // several ranks.
  Tensor reduce(const Stream& stream, const Home& home, const Tensor& parts, const Tensor& room) const {
    if (group_.size() == 1) return parts;
    const Tensor mine = room.first_rows(home.count);
    group_.reduce_scatter_sum(stream, parts, home.tokens_of, mine, comm::Purpose::attention);
    return mine;
  }

  bool is_alone() const { return group_.size() == 1; }
  const comm::Communicator& communicator() const { return group_; }

 private:
  comm::Communicator group_;
};

}  // namespace chorale::model
