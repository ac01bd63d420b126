#include "comm/nccl/peer_world.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/tensor.h"
#include "comm/device_transport.h"
#include "comm/nccl/peer_kernels.h"

namespace chorale::comm {
namespace peer {
namespace {

// Blocks of all ranks of a device that may wait at once: fewer than a GPU has multiprocessors, so that they
// always find room.
constexpr int kBlocksOfDevice = 96;

}  // namespace

struct Shared {
  std::vector<Device> devices;  // each rank's
  std::chrono::milliseconds time_limit{0};
  std::vector<Buffer> rank_memory;  // each rank's RankMemory
  Buffer states;                    // RankState [world], in memory of the host

  // Written by devices, and read by the host, at any time.
  volatile RankState& state(int rank) {
    return reinterpret_cast<RankState*>(states.data())[static_cast<size_t>(rank)];
  }
};

namespace {

// What each member tells the others of itself when a group is made.
struct Member {
  GroupMemory* memory = nullptr;
  int64_t world_rank = 0;
};

class PeerCollectives final : public DeviceCollectives {
 public:
  // Collective.
  PeerCollectives(std::shared_ptr<Shared> shared, Transport& host) : shared_(std::move(shared)) {
    const auto world_rank = static_cast<size_t>(host.world_rank());
    device_ = shared_->devices[world_rank];
    memory_ = Buffer(sizeof(GroupMemory), device_);
    const auto size = static_cast<size_t>(host.size());
    CHORALE_CHECK(size <= kMaxMembers, "{} ranks", size);
    Member mine{reinterpret_cast<GroupMemory*>(memory_.device_data()), host.world_rank()};
    std::vector<Member> all(size);
    host.all_gather(std::as_bytes(std::span(&mine, 1)), std::vector<int64_t>(size, sizeof mine),
                    std::as_writable_bytes(std::span(all)));
    const auto sharers = std::ranges::count(shared_->devices, device_);
    group_.rank = host.rank();
    group_.size = host.size();
    group_.most_blocks = std::max(kBlocksOfDevice / static_cast<int>(sharers), 1);
    group_.limit = std::chrono::nanoseconds(shared_->time_limit).count();
    group_.rank_memory = reinterpret_cast<RankMemory*>(shared_->rank_memory[world_rank].device_data());
    group_.state = const_cast<RankState*>(&shared_->state(host.world_rank()));
    for (size_t r = 0; r < size; ++r) {
      group_.members[r] = all[r].memory;
      group_.world_ranks[r] = static_cast<int>(all[r].world_rank);
    }
  }

  bool can_be_recorded() const override { return true; }

  void reduce_scatter_sum(const Stream& stream, const int64_t* values, std::span<const int64_t> counts,
                          int64_t* part) override {
    if (is_nothing(counts)) return;
    peer::reduce_scatter_sum(place(stream), group_, values, counts, part);
  }
  void all_gather(const Stream& stream, const std::byte* part, std::span<const int64_t> sizes,
                  std::byte* all) override {
    if (is_nothing(sizes)) return;
    peer::gather(place(stream), group_, part, sizes, all, true);
  }
  void gather(const Stream& stream, const std::byte* part, std::span<const int64_t> sizes, std::byte* all,
              int root) override {
    if (is_nothing(sizes)) return;
    peer::gather(place(stream), group_, part, sizes, all, root == group_.rank);
  }
  void all_to_all(const Stream& stream, const RowExchange& rows) override {
    peer::all_to_all(place(stream), group_,
                     {.send = rows.send,
                      .sent_rows = rows.sent_rows,
                      .receive = rows.receive,
                      .received_rows = rows.received_rows,
                      .receive_room = rows.receive_room,
                      .row_bytes = rows.row_bytes});
  }

  std::shared_ptr<DeviceCollectives> split(int, int, Transport& part) override {
    return std::make_shared<PeerCollectives>(shared_, part);
  }

 private:
  // The same on all ranks, so that none waits for the others in vain.
  bool is_nothing(std::span<const int64_t> sizes) const {
    CHORALE_CHECK(sizes.size() == static_cast<size_t>(group_.size));
    return std::ranges::all_of(sizes, [](int64_t size) { return size == 0; });
  }
  Place place(const Stream& stream) const {
    CHORALE_CHECK(stream.device() == device_, "a queue of {} for a rank on {}", stream.device().name(),
                  device_.name());
    return {device_.driver()->index(), stream.queue().native_handle()};
  }

  std::shared_ptr<Shared> shared_;
  Device device_;
  Buffer memory_;  // the own GroupMemory
  Group group_;
};

}  // namespace
}  // namespace peer

bool PeerWorld::is_possible(std::span<const Device> devices) {
  if (devices.size() > static_cast<size_t>(peer::kMaxMembers)) return false;
  return std::ranges::all_of(devices, [&](const Device& from) {
    return from.kind() == DeviceKind::cuda && std::ranges::all_of(devices, [&](const Device& to) {
             return from == to || peer::can_reach(from.driver()->index(), to.driver()->index());
           });
  });
}

PeerWorld::PeerWorld(std::span<const Device> devices, LocalWorld& world, std::chrono::milliseconds time_limit)
    : shared_(std::make_shared<peer::Shared>()), world_(world) {
  CHORALE_CHECK(static_cast<int>(devices.size()) == world.size());
  if (!is_possible(devices)) {
    throw_error("--collectives peer: expected at most {} ranks on GPUs that reach each other's memory",
                peer::kMaxMembers);
  }
  shared_->devices.assign(devices.begin(), devices.end());
  shared_->time_limit = time_limit;
  for (const Device& from : devices) {
    for (const Device& to : devices) {
      if (from != to) peer::let_reach(from.driver()->index(), to.driver()->index());
    }
    shared_->rank_memory.emplace_back(sizeof(peer::RankMemory), from);
  }
  shared_->states = Buffer(devices.size() * sizeof(peer::RankState), devices.front().staging());
}

PeerWorld::~PeerWorld() {
  end();
}

std::shared_ptr<Transport> PeerWorld::transport(int rank) {
  std::shared_ptr<Transport> host = world_.transport(rank);
  auto device = std::make_shared<peer::PeerCollectives>(shared_, *host);
  return std::make_shared<DeviceTransport>(std::move(host), std::move(device));
}

void PeerWorld::end() {
  for (int rank = 0; rank < world_.size(); ++rank) shared_->state(rank).ends = 1;
}

std::function<void()> PeerWorld::watch(int rank) {
  return [this, rank] {
    std::optional<CollectiveError> failure = world_.failure();
    if (!failure) {
      const int64_t missed = shared_->state(rank).missed;
      if (missed == 0) return;
      // Who is awaited may itself wait for somebody.
      auto culprit = static_cast<int>(missed - 1);
      for (int i = 0; i < world_.size() && shared_->state(culprit).awaits != 0; ++i)
        culprit = static_cast<int>(shared_->state(culprit).awaits - 1);
      world_.fail(culprit, fmt::format("it did not come to a collective operation within {:g} s",
                                       std::chrono::duration<double>(shared_->time_limit).count()));
      failure = world_.failure();
    }
    end();
    throw *failure;
  };
}

}  // namespace chorale::comm
