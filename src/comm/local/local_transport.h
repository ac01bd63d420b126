// A rank of a group of threads. See comm/local/local_world.h.
#pragma once

#include <memory>
#include <utility>

#include "comm/communicator.h"
#include "comm/local/group.h"

namespace chorale::comm::local {

class LocalTransport final : public Transport {
 public:
  LocalTransport(std::shared_ptr<Group> group, int member) : group_(std::move(group)), rank_(member) {}

  int rank() const override { return rank_; }
  int size() const override { return group_->size(); }
  int world_rank() const override { return group_->world_rank(rank_); }
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
  void show_and_meet(std::span<const std::byte> input, std::span<const int64_t> sizes = {},
                     bool limited = true);
  void broadcast(std::span<std::byte> data, int root, bool limited);
  void collect(std::span<const int64_t> sizes, std::span<std::byte> all) const;
  const int64_t* values_of(int member) const;

  std::shared_ptr<Group> group_;
  int rank_;
};

}  // namespace chorale::comm::local
