// Ranks with a queue of a GPU each, as threads of the test: several may share a GPU.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include "base/copy.h"
#include "comm/device_collectives.h"
#include "comm/nccl/nccl_world.h"
#include "comm/nccl/peer_world.h"
#include "kernels/backend.h"
#include "unit/comm/rank_threads.h"

namespace chorale::comm {

enum class Kind { peer, nccl, host };

struct Ranks {
  Kind kind = Kind::peer;
  int ranks = 2;
  int gpus = 1;
  std::string name() const {
    const char* const kinds[] = {"Peer", "Nccl", "Host"};
    return fmt::format("{}_{}RanksOn{}Gpus", kinds[static_cast<int>(kind)], ranks, gpus);
  }
};

// What this machine's GPUs permit. NCCL where it is installed and the ranks have a GPU each.
inline std::vector<Ranks> all_ranks() {
  const int gpus = count_devices(DeviceKind::cuda);
  std::vector<Ranks> all;
  const auto add = [&](int ranks, int used) {
    all.push_back({Kind::peer, ranks, used});
    all.push_back({Kind::host, ranks, used});
    if (ranks == used && nccl_is_there()) all.push_back({Kind::nccl, ranks, used});
  };
  add(2, 1);
  add(4, 1);
  if (gpus >= 2) {
    add(2, 2);
    add(8, 2);
  }
  return all;
}

// What a rank of a test has.
struct RankOfTest {
  std::shared_ptr<Transport> transport;
  Device device;
  Queue& queue;
  // Memory that is not needed any more: to free it waits for the GPU, where other ranks may wait for this
  // one.
  std::vector<Buffer>& kept;
};

// Runs every rank in a thread of its own. Returns what each ended with, as run_ranks() does.
inline std::vector<std::optional<CollectiveError>> run_on_gpus(
    const Ranks& shape, std::chrono::milliseconds limit, const std::function<void(const RankOfTest&)>& body) {
  std::vector<std::unique_ptr<DeviceDriver>> drivers;
  for (int g = 0; g < shape.gpus; ++g) drivers.push_back(open_device(DeviceKind::cuda, g));
  std::vector<Device> devices;
  for (int r = 0; r < shape.ranks; ++r)
    devices.emplace_back(*drivers[static_cast<size_t>(r * shape.gpus / shape.ranks)]);
  LocalWorld world(shape.ranks, limit);
  std::unique_ptr<PeerWorld> peers;
  if (shape.kind == Kind::peer) peers = std::make_unique<PeerWorld>(devices, world, limit);
  // What others may still use when a rank has failed.
  std::vector<std::shared_ptr<Transport>> transports(devices.size());
  std::vector<std::unique_ptr<Queue>> queues(devices.size());
  std::vector<std::vector<Buffer>> kept(devices.size());
  return run_ranks(world, [&](Transport& host) {
    const int rank = host.rank();
    const Device& device = devices[static_cast<size_t>(rank)];
    std::unique_ptr<Queue>& queue = queues[static_cast<size_t>(rank)];
    std::shared_ptr<Transport>& transport = transports[static_cast<size_t>(rank)];
    queue = device.driver()->make_queue();
    transport = world.transport(rank);
    if (shape.kind == Kind::peer) {
      transport = peers->transport(rank);
      queue->set_watch(peers->watch(rank));
    } else if (shape.kind == Kind::nccl) {
      NcclRank made = join_nccl(transport, device, [&] { return world.failure(); });
      transport = made.transport;
      queue->set_watch(made.watch);
    }
    body({transport, device, *queue, kept[static_cast<size_t>(rank)]});
    queue->synchronize();
    world.transport(rank)->barrier();  // nobody frees what another still reads
  });
}

// Vectors on a device.
template <typename T>
class DeviceVector {
 public:
  DeviceVector(const RankOfTest& rank, size_t count)
      : stream_(rank.queue),
        count_(count),
        memory_(std::max<size_t>(count, 1) * sizeof(T), rank.device),
        kept_(rank.kept) {}
  DeviceVector(const DeviceVector&) = delete;
  DeviceVector& operator=(const DeviceVector&) = delete;
  ~DeviceVector() { kept_.push_back(std::move(memory_)); }
  DeviceVector(const RankOfTest& rank, std::span<const T> values) : DeviceVector(rank, values.size()) {
    write(values);
  }
  void write(std::span<const T> values) {
    if (values.empty()) return;
    copy(stream_, host_vector(values), tensor());
    stream_.synchronize();
  }
  std::vector<T> read() const { return download<T>(stream_, tensor()); }
  T* data() const { return reinterpret_cast<T*>(memory_.device_data()); }
  Tensor tensor(int64_t rows = 1) const {
    const auto columns = static_cast<int64_t>(count_) / rows;
    return Tensor(memory_.device_data(), dtype_of<T>(), rows, columns, columns, memory_.device());
  }

 private:
  Stream stream_;
  size_t count_;
  Buffer memory_;
  std::vector<Buffer>& kept_;
};

}  // namespace chorale::comm
