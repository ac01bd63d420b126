// The collectives of devices behind the interface of memory of the host: what is given goes to a device, and
// what comes of it back, so that the cases of every transport are theirs, too.
#pragma once

#include <memory>
#include <utility>

#include "gpu/comm/ranks.h"

namespace chorale::comm {

class OnDevice final : public Transport {
 public:
  OnDevice(std::shared_ptr<Transport> ranks, const RankOfTest& rank)
      : ranks_(std::move(ranks)), rank_(rank), stream_(rank.queue) {}

  int rank() const override { return ranks_->rank(); }
  int size() const override { return ranks_->size(); }
  int world_rank() const override { return ranks_->world_rank(); }
  bool needs_host_memory() const override { return true; }
  void barrier() override { ranks_->barrier(); }
  void broadcast(std::span<std::byte> data, int root) override { ranks_->broadcast(data, root); }
  void await_broadcast(std::span<std::byte> data, int root) override { ranks_->await_broadcast(data, root); }

  void all_reduce_sum(std::span<int64_t> values) override {
    const DeviceVector<int64_t> sums(rank_, std::span<const int64_t>(values));
    Communicator(ranks_).all_reduce_sum(stream_, sums.tensor(), Purpose::control);
    fetch(sums, values);
  }
  void reduce_scatter_sum(std::span<const int64_t> values, std::span<const int64_t> counts,
                          std::span<int64_t> part) override {
    const DeviceVector<int64_t> sums(rank_, values), own(rank_, part.size());
    ranks_->device()->reduce_scatter_sum(stream_, sums.data(), counts, own.data());
    fetch(own, part);
  }
  void all_gather(std::span<const std::byte> part, std::span<const int64_t> sizes,
                  std::span<std::byte> all) override {
    const DeviceVector<std::byte> own(rank_, part), whole(rank_, all.size());
    ranks_->device()->all_gather(stream_, own.data(), sizes, whole.data());
    fetch(whole, all);
  }
  void gather(std::span<const std::byte> part, std::span<const int64_t> sizes, std::span<std::byte> all,
              int root) override {
    const DeviceVector<std::byte> own(rank_, part), whole(rank_, all.size());
    ranks_->device()->gather(stream_, own.data(), sizes, whole.data(), root);
    fetch(whole, all);
  }
  void all_to_all(std::span<const std::byte> send, std::span<const int64_t> sent_sizes,
                  std::span<std::byte> receive, std::span<int64_t> received_sizes) override {
    // Every rank has the same room, as in a step.
    int64_t room = static_cast<int64_t>(std::max(send.size(), receive.size()));
    std::vector<int64_t> rooms(static_cast<size_t>(size()));
    ranks_->all_gather(std::as_bytes(std::span(&room, 1)), std::vector<int64_t>(rooms.size(), sizeof room),
                       std::as_writable_bytes(std::span(rooms)));
    room = *std::ranges::max_element(rooms) * size();
    const DeviceVector<std::byte> from(rank_, static_cast<size_t>(room)),
        to(rank_, static_cast<size_t>(room));
    if (!send.empty()) {
      copy(stream_, host_vector(send), from.tensor().first_columns(std::ssize(send)));
      stream_.synchronize();
    }
    const DeviceVector<int64_t> sent(rank_, sent_sizes), received(rank_, received_sizes.size());
    ranks_->device()->all_to_all(stream_, {.send = from.data(),
                                           .sent_rows = sent.data(),
                                           .send_room = room,
                                           .receive = to.data(),
                                           .received_rows = received.data(),
                                           .receive_room = room,
                                           .row_bytes = 1});
    fetch(received, received_sizes);
    const auto bytes =
        static_cast<size_t>(std::accumulate(received_sizes.begin(), received_sizes.end(), int64_t{0}));
    ASSERT_LE(bytes, receive.size());
    const std::vector<std::byte> all = to.read();
    std::copy_n(all.begin(), bytes, receive.begin());
  }
  std::shared_ptr<Transport> split(int color, int key) override {
    return std::make_shared<OnDevice>(ranks_->split(color, key), rank_);
  }

 private:
  template <typename T>
  void fetch(const DeviceVector<T>& from, std::span<T> to) {
    stream_.synchronize();
    const std::vector<T> values = from.read();
    std::copy_n(values.begin(), to.size(), to.begin());
  }

  std::shared_ptr<Transport> ranks_;
  RankOfTest rank_;
  Stream stream_;
};

}  // namespace chorale::comm
