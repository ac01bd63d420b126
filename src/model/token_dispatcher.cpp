#include "model/token_dispatcher.h"

#include <utility>

#include "kernels/fixed_point.h"

namespace chorale::model {

TokenDispatcher::TokenDispatcher(const RowFormat& format, const DispatchTable& table,
                                 comm::Communicator group)
    : format_(format), table_(table), group_(std::move(group)) {}

ExpertInput TokenDispatcher::dispatch(const Stream& stream, const Tensor& x, const ChosenExperts& chosen,
                                      const Workspace& scratch) {
  dispatch_rows(stream, x, chosen, table_, format_,
                {.counts = scratch.sent_counts,
                 .tokens = scratch.sent_tokens,
                 .rows = scratch.send_rows,
                 .owner_tokens = scratch.owner_tokens});
  const int64_t received =
      group_.all_to_all_rows(stream, scratch.send_rows, scratch.sent_counts, scratch.received_rows,
                             scratch.received_counts, comm::Purpose::dispatch);
  const Tensor rows = scratch.received_rows.first_rows(received);
  ExpertInput input{format_.activations(rows), scratch.expert_rows(),
                    scratch.received_sums.first_rows(received)};
  sort_by_expert(stream, format_.chosen(rows), input.rows);
  clear_sums(stream, input.sums);
  return input;
}

Tensor TokenDispatcher::combine(const Stream& stream, const ExpertInput& input, int64_t num_tokens,
                                const Workspace& scratch) {
  // Everything goes back the way it came.
  group_.all_to_all_rows(stream, input.sums, scratch.received_counts, scratch.returned_sums,
                         scratch.sent_counts, comm::Purpose::combine);
  const Tensor sums = scratch.home_sums.first_rows(num_tokens);
  clear_sums(stream, sums);
  add_returned(stream, scratch.returned_sums, scratch.sent_tokens, scratch.sent_counts, sums);
  return sums;
}

}  // namespace chorale::model
