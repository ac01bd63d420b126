#include "engine/device_links.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "comm/nccl/nccl_world.h"

namespace chorale::engine {
namespace {

bool is_one_rank_each(const std::vector<Device>& devices) {
  for (size_t i = 0; i < devices.size(); ++i) {
    if (std::ranges::count(devices, devices[i]) > 1) return false;
  }
  return true;
}

void require_one_rank_each(const std::vector<Device>& devices) {
  if (!is_one_rank_each(devices))
    throw_error("--collectives nccl: expected one rank for each GPU, found several on one; use peer or host");
}

}  // namespace

DeviceLinks::DeviceLinks(const RunnerParts& parts, comm::LocalWorld& world,
                         std::chrono::milliseconds time_limit)
    : parts_(parts), world_(world), kind_(parts.collectives) {
  if (parts.device_kind() != DeviceKind::cuda) {
    kind_ = Collectives::host;
    return;
  }
  std::vector<Device> devices;
  for (int rank = 0; rank < world.size(); ++rank) devices.push_back(parts.device_of(rank));
  if (kind_ == Collectives::automatic) {
    // A kernel that waits for another rank's must not hold that one up, as it may on a GPU that they share.
    if (!is_one_rank_each(devices)) {
      kind_ = Collectives::host;
    } else if (comm::PeerWorld::is_possible(devices)) {
      kind_ = Collectives::peer;
    } else if (comm::nccl_is_there()) {
      kind_ = Collectives::nccl;
    } else {
      kind_ = Collectives::host;
      log::warn(
          "--collectives auto: the GPUs do not reach each other's memory and there is no NCCL; what they "
          "exchange goes through the host, which is slow");
    }
  }
  if (kind_ == Collectives::nccl) {
    require_one_rank_each(devices);
    comm::require_nccl();
  }
  if (kind_ == Collectives::peer) peers_ = std::make_unique<comm::PeerWorld>(devices, world, time_limit);
  log::info("collectives: {}", kind_ == Collectives::peer   ? "over peer memory"
                               : kind_ == Collectives::nccl ? "NCCL " + comm::nccl_version()
                                                            : "through the host");
}

DeviceLink DeviceLinks::make(int rank) {
  if (peers_ != nullptr) return {peers_->transport(rank), peers_->watch(rank)};
  std::shared_ptr<comm::Transport> host = world_.transport(rank);
  if (kind_ != Collectives::nccl) return {std::move(host), nullptr};
  comm::NcclRank made =
      comm::join_nccl(std::move(host), parts_.device_of(rank), [this] { return world_.failure(); });
  return {std::move(made.transport), std::move(made.watch)};
}

void DeviceLinks::end() {
  if (peers_ != nullptr) peers_->end();
}

DeviceLink link_process(std::shared_ptr<comm::Transport> mpi, const Device& device, Collectives wanted,
                        std::function<std::optional<comm::CollectiveError>()> failure) {
  if (device.kind() != DeviceKind::cuda || mpi->size() == 1) return {std::move(mpi), nullptr};
  if (wanted == Collectives::peer)
    throw_error("--collectives peer: expected ranks of one process, found ranks over MPI; use nccl");
  // All ranks decide alike.
  int64_t lacking = comm::nccl_is_there() ? 0 : 1;
  mpi->all_reduce_sum({&lacking, 1});
  if (wanted == Collectives::nccl && lacking > 0) comm::require_nccl();
  if (wanted == Collectives::nccl && lacking > 0)
    throw_error("--collectives nccl: {} of the ranks have no NCCL", lacking);
  if (wanted == Collectives::host || lacking > 0) {
    if (wanted != Collectives::host && mpi->rank() == 0) {
      log::warn("--collectives auto: {} of the ranks have no NCCL; what GPUs exchange goes through the host",
                lacking);
    }
    return {std::move(mpi), nullptr};
  }
  if (mpi->rank() == 0) log::info("collectives: NCCL {}", comm::nccl_version());
  comm::NcclRank made = comm::join_nccl(std::move(mpi), device, std::move(failure));
  return {std::move(made.transport), std::move(made.watch)};
}

}  // namespace chorale::engine
