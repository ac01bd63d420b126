#include "model/token_dispatcher.h"

#include <algorithm>
#include <utility>

#include "kernels/fixed_point.h"

namespace chorale::model {

TokenDispatcher::TokenDispatcher(const RowFormat& format, const DispatchTable& table,
                                 comm::Communicator group)
    : format_(format), table_(table), group_(std::move(group)) {}

Tensor TokenDispatcher::room(const Tensor& rows, int64_t most_tokens) const {
  return rows.first_rows(std::min(rows.rows(), most_tokens * group_.size()));
}

ExpertInput TokenDispatcher::dispatch(const Stream& stream, const Tensor& x, const ChosenExperts& chosen,
                                      int64_t most_tokens, const Workspace& scratch) {
  const Tensor send = room(scratch.send_rows, most_tokens);
  dispatch_rows(stream, x, chosen, table_, format_,
                {.counts = scratch.sent_counts,
                 .tokens = scratch.sent_tokens,
                 .rows = send,
                 .owner_tokens = scratch.owner_tokens});
  const int64_t received =
      group_.all_to_all_rows(stream, send, scratch.sent_counts, room(scratch.received_rows, most_tokens),
                             scratch.received_counts, comm::Purpose::dispatch);
  const Tensor rows = scratch.received_rows.first_rows(received);
  ExpertInput input{format_.activations(rows), scratch.expert_rows(),
                    scratch.received_sums.first_rows(received)};
  // The host may not know how many rows have come.
  sort_by_expert(stream, format_.chosen(rows), input.rows, scratch.received_counts);
  clear_sums(stream, input.sums);
  return input;
}

Tensor TokenDispatcher::combine(const Stream& stream, const ExpertInput& input, int64_t num_tokens,
                                int64_t most_tokens, const Workspace& scratch) {
  // Everything goes back the way it came.
  const Tensor returned = room(scratch.returned_sums, most_tokens);
  group_.all_to_all_rows(stream, input.sums, scratch.received_counts, returned, scratch.sent_counts,
                         comm::Purpose::combine);
  const Tensor sums = scratch.home_sums.first_rows(num_tokens);
  clear_sums(stream, sums);
  add_returned(stream, returned, scratch.sent_tokens, scratch.sent_counts, sums);
  return sums;
}

}  // namespace chorale::model
