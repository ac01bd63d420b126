#include "comm/device_links.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "comm/nccl/nccl_world.h"

namespace chorale::comm {
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

Collectives parse_collectives(const std::string& name) {
  if (name == "auto") return Collectives::automatic;
  if (name == "host") return Collectives::host;
  if (name == "peer") return Collectives::peer;
  if (name == "nccl") return Collectives::nccl;
  throw_error("--collectives: expected auto, peer, nccl or host, found \"{}\"", name);
}

DeviceLinks::DeviceLinks(Collectives wanted, std::vector<Device> devices, LocalWorld& world,
                         std::chrono::milliseconds time_limit)
    : devices_(std::move(devices)), world_(world), kind_(wanted) {
  if (devices_[0].kind() != DeviceKind::cuda) {
    kind_ = Collectives::host;
    return;
  }
  if (kind_ == Collectives::automatic) {
    // A kernel that waits for another rank's must not hold that one up, as it may on a GPU that they share.
    if (!is_one_rank_each(devices_)) {
      kind_ = Collectives::host;
    } else if (PeerWorld::is_possible(devices_)) {
      kind_ = Collectives::peer;
    } else if (nccl_is_there()) {
      kind_ = Collectives::nccl;
    } else {
      kind_ = Collectives::host;
      log::warn(
          "--collectives auto: the GPUs do not reach each other's memory and there is no NCCL; what they "
          "exchange goes through the host, which is slow");
    }
  }
  if (kind_ == Collectives::nccl) {
    require_one_rank_each(devices_);
    require_nccl();
  }
  if (kind_ == Collectives::peer) peers_ = std::make_unique<PeerWorld>(devices_, world, time_limit);
  log::info("collectives: {}", kind_ == Collectives::peer   ? "over peer memory"
                               : kind_ == Collectives::nccl ? "NCCL " + nccl_version()
                                                            : "through the host");
}

DeviceLink DeviceLinks::make(int rank) {
  if (peers_ != nullptr) return {peers_->transport(rank), peers_->watch(rank)};
  std::shared_ptr<Transport> host = world_.transport(rank);
  if (kind_ != Collectives::nccl) return {std::move(host), nullptr};
  NcclRank made =
      join_nccl(std::move(host), devices_[static_cast<size_t>(rank)], [this] { return world_.failure(); });
  return {std::move(made.transport), std::move(made.watch)};
}

void DeviceLinks::end() {
  if (peers_ != nullptr) peers_->end();
}

DeviceLink link_process(std::shared_ptr<Transport> mpi, const Device& device, Collectives wanted,
                        std::function<std::optional<CollectiveError>()> failure) {
  if (device.kind() != DeviceKind::cuda || mpi->size() == 1) return {std::move(mpi), nullptr};
  if (wanted == Collectives::peer)
    throw_error("--collectives peer: expected ranks of one process, found ranks over MPI; use nccl");
  // All ranks decide alike.
  int64_t lacking = nccl_is_there() ? 0 : 1;
  mpi->all_reduce_sum({&lacking, 1});
  if (wanted == Collectives::nccl && lacking > 0) require_nccl();
  if (wanted == Collectives::nccl && lacking > 0)
    throw_error("--collectives nccl: {} of the ranks have no NCCL", lacking);
  if (wanted == Collectives::host || lacking > 0) {
    if (wanted != Collectives::host && mpi->rank() == 0) {
      log::warn("--collectives auto: {} of the ranks have no NCCL; what GPUs exchange goes through the host",
                lacking);
    }
    return {std::move(mpi), nullptr};
  }
  if (mpi->rank() == 0) log::info("collectives: NCCL {}", nccl_version());
  NcclRank made = join_nccl(std::move(mpi), device, std::move(failure));
  return {std::move(made.transport), std::move(made.watch)};
}

}  // namespace chorale::comm
