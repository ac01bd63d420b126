#include "model/token_dispatcher.h"

#include <utility>

#include "kernels/fixed_point.h"

namespace chorale::model {

TokenDispatcher::TokenDispatcher(const RankExtent& extent, const RowFormat& format,
                                 const DispatchTable& table, comm::Communicator group)
    : format_(format),
      table_(table),
      group_(std::move(group)),
      sent_(static_cast<size_t>(extent.group_size)),
      received_(static_cast<size_t>(extent.group_size)) {}

ExpertInput TokenDispatcher::dispatch(const Stream& stream, const Tensor& x, const ChosenExperts& chosen,
                                      const Workspace& scratch) {
  total_sent_ = dispatch_rows(stream, x, chosen, table_, format_,
                              {.counts = sent_,
                               .tokens = scratch.sent_tokens,
                               .rows = scratch.send_rows,
                               .owner_tokens = scratch.owner_tokens});
  const int64_t received = group_.all_to_all_rows(stream, scratch.send_rows.first_rows(total_sent_), sent_,
                                                  scratch.received_rows, received_, comm::Purpose::dispatch);
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
  group_.all_to_all_rows(stream, input.sums, received_, scratch.returned_sums, sent_, comm::Purpose::combine);
  const Tensor sums = scratch.home_sums.first_rows(num_tokens);
  clear_sums(stream, sums);
  add_returned(stream, scratch.returned_sums.first_rows(total_sent_), scratch.sent_tokens, sums);
  return sums;
}

}  // namespace chorale::model
