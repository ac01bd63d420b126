// A transport whose ranks have a device each: what lies in memory of the host goes through another transport,
// what lies on devices through their collectives.
#pragma once

#include <memory>
#include <utility>

#include "comm/communicator.h"
#include "comm/device_collectives.h"

namespace chorale::comm {

class DeviceTransport final : public Transport {
 public:
  // Of the same group.
  DeviceTransport(std::shared_ptr<Transport> host, std::shared_ptr<DeviceCollectives> device)
      : host_(std::move(host)), device_(std::move(device)) {}

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  int world_rank() const override { return host_->world_rank(); }
  bool needs_host_memory() const override { return false; }
  DeviceCollectives* device() const override { return device_.get(); }

  void barrier() override { host_->barrier(); }
  void broadcast(std::span<std::byte> data, int root) override { host_->broadcast(data, root); }
  void await_broadcast(std::span<std::byte> data, int root) override { host_->await_broadcast(data, root); }
  void all_reduce_sum(std::span<int64_t> values) override { host_->all_reduce_sum(values); }
  void reduce_scatter_sum(std::span<const int64_t> values, std::span<const int64_t> counts,
                          std::span<int64_t> part) override {
    host_->reduce_scatter_sum(values, counts, part);
  }
  void all_gather(std::span<const std::byte> part, std::span<const int64_t> sizes,
                  std::span<std::byte> all) override {
    host_->all_gather(part, sizes, all);
  }
  void gather(std::span<const std::byte> part, std::span<const int64_t> sizes, std::span<std::byte> all,
              int root) override {
    host_->gather(part, sizes, all, root);
  }
  void all_to_all(std::span<const std::byte> send, std::span<const int64_t> sent_sizes,
                  std::span<std::byte> receive, std::span<int64_t> received_sizes) override {
    host_->all_to_all(send, sent_sizes, receive, received_sizes);
  }
  std::shared_ptr<Transport> split(int color, int key) override {
    std::shared_ptr<Transport> part = host_->split(color, key);
    std::shared_ptr<DeviceCollectives> device = device_->split(color, key, *part);
    return std::make_shared<DeviceTransport>(std::move(part), std::move(device));
  }

 private:
  std::shared_ptr<Transport> host_;
  std::shared_ptr<DeviceCollectives> device_;
};

}  // namespace chorale::comm
