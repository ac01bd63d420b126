// A rank of a group of processes. See comm/mpi/mpi_world.h.
//
// Barriers, broadcasts and short sums are MPI's own collectives that do not block. Whatever moves parts of
// uneven sizes is made of single messages, in the way that Open MPI's own such collectives are: those take
// sizes and offsets as ints, and not all ranks know whether all of them fit. A long sum is made of its two
// halves, each of which moves every byte once.
#pragma once

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "comm/mpi/check.h"
#include "comm/mpi/context.h"

namespace chorale::comm::mpi {

class MpiTransport final : public Transport {
 public:
  // group: on the notice board. members: the ranks of the world. The communicator is left to MPI_Finalize,
  // because to free it is a collective operation, and destructors run when they run.
  MpiTransport(std::shared_ptr<Context> context, MPI_Comm comm, int group, std::vector<int> members);

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(members_.size()); }
  int world_rank() const override { return members_[static_cast<size_t>(rank_)]; }
  bool needs_host_memory() const override { return true; }

  void barrier() override;
  void broadcast(std::span<std::byte> data, int root) override;
  void await_broadcast(std::span<std::byte> data, int root) override;
  void all_reduce_sum(std::span<int64_t> values) override;
  void reduce_scatter_sum(std::span<const int64_t> values, std::span<const int64_t> counts,
                          std::span<int64_t> part) override;
  void all_gather(std::span<const std::byte> part, std::span<const int64_t> sizes,
                  std::span<std::byte> all) override;
  void gather(std::span<const std::byte> part, std::span<const int64_t> sizes, std::span<std::byte> all,
              int root) override;
  void all_to_all(std::span<const std::byte> send, std::span<const int64_t> sent_sizes,
                  std::span<std::byte> receive, std::span<int64_t> received_sizes) override;
  std::shared_ptr<Transport> split(int color, int key) override;

 private:
  // What every operation begins with.
  Call arrive();
  void broadcast(std::span<std::byte> data, int root, bool limited);
  void sum_parts(std::span<const int64_t> values, std::span<const int64_t> counts, std::span<int64_t> part,
                 const Call& call);
  void exchange_parts(std::span<const std::byte> part, std::span<const int64_t> sizes,
                      std::span<std::byte> all, const Call& call);
  // Messages, in pieces, to be completed by wait(). None for no bytes.
  void send(std::span<const std::byte> data, int to);
  void receive(std::span<std::byte> data, int from);
  void receive_all(std::span<const int64_t> sizes, std::span<const std::byte> own, std::span<std::byte> all);
  // Lets `start` make one request for every piece of so many bytes, and completes them.
  template <typename Start>
  void in_pieces(size_t bytes, const Call& call, const char* operation, const Start& start);
  void wait(const Call& call);

  std::shared_ptr<Context> context_;
  MPI_Comm comm_;
  int group_;
  std::vector<int> members_;
  int rank_ = 0;
  std::vector<MPI_Request> requests_;
  std::vector<int64_t> partial_sums_;  // the other ranks' sums
  std::vector<int64_t> shares_;        // what each rank adds up in an all_reduce: values, then bytes
};

}  // namespace chorale::comm::mpi
