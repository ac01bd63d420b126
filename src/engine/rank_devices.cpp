#include "engine/rank_devices.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "base/math.h"
#include "base/memory_info.h"
#include "kernels/backend.h"

namespace chorale::engine {

std::string describe_devices(const std::vector<Device>& devices) {
  std::vector<std::string> names;
  for (const Device& device : devices) {
    if (std::ranges::find(names, device.name()) == names.end()) names.push_back(device.name());
  }
  return fmt::format("{}, {}", fmt::join(names, " and "), devices[0].description());
}

uint64_t free_memory(const Device& device) {
  return device.is_cpu() ? available_memory() : device.driver()->free_memory();
}

MemoryPlan plan_of_devices(const io::ModelConfig& config, const model::WeightFormats& formats,
                           const LoadOptions& options, const ParallelPlan& parallel,
                           std::span<const int> here, const DeviceRoom& room) {
  const std::vector<Device>& devices = room.devices;
  std::optional<MemoryPlan> least;
  for (size_t first = 0; first < devices.size(); ++first) {
    if (std::ranges::find(devices.begin(), devices.begin() + static_cast<ptrdiff_t>(first), devices[first]) !=
        devices.begin() + static_cast<ptrdiff_t>(first))
      continue;
    std::vector<int> ranks(here.begin(), here.end());
    if (devices.size() > 1) {
      std::erase_if(ranks, [&](int rank) { return devices[static_cast<size_t>(rank)] != devices[first]; });
    }
    const uint64_t available = free_memory(devices[first]) / static_cast<uint64_t>(room.sharers) + room.freed;
    MemoryPlan plan = plan_memory(config, formats, options, parallel, ranks, available);
    if (!least || plan.kv_tokens < least->kv_tokens) least = std::move(plan);
  }
  return *least;
}

bool store_apart(const parallel::Strategy& strategy, const std::vector<Device>& devices) {
  return strategy.world() > 1 && (devices.size() > 1 || !backend_of(devices[0]).slices_in_place);
}

namespace {

void refuse_flags_of_gpus(const LoadOptions& options) {
  const ParallelOptions& parallel = options.parallel;
  const char* flag = !parallel.gpus.empty()           ? "--gpus"
                     : parallel.ranks_per_gpu > 0     ? "--ranks-per-gpu"
                     : parallel.collectives == "peer" ? "--collectives peer"
                     : parallel.collectives == "nccl" ? "--collectives nccl"
                                                      : nullptr;
  if (flag != nullptr) throw_error("{}: expected --device cuda, found --device {}", flag, options.device);
}

}  // namespace

RankDevices::RankDevices(const LoadOptions& options, int world, const RankProcesses& processes) {
  const NamedDevice named = parse_device(options.device);
  kind_ = named.kind;
  const ParallelOptions& parallel = options.parallel;
  if (kind_ == DeviceKind::cpu) {
    refuse_flags_of_gpus(options);
    return;
  }
  if (named.index && !parallel.gpus.empty())
    throw_error("--gpus: expected --device cuda, found --device {}", options.device);
  candidates_ = parallel.gpus;
  if (named.index) candidates_ = {*named.index};
  const bool is_one = candidates_.size() == 1;
  if (candidates_.empty()) {
    candidates_.resize(static_cast<size_t>(std::max(count_devices(kind_), 1)));
    std::iota(candidates_.begin(), candidates_.end(), 0);
  }
  ranks_per_device_ = parallel.ranks_per_gpu;
  if (ranks_per_device_ == 0 && (kind_ == DeviceKind::cuda || parallel.gpus.size() > 1))
    ranks_per_device_ = 1;
  is_process_per_rank_ = processes.mpi() != nullptr;
  if (is_process_per_rank_) {
    const std::vector<int>& ranks = processes.mpi()->ranks_on_this_host();
    const auto place = std::ranges::find(ranks, processes.mpi()->rank());
    first_rank_ = static_cast<int>(place - ranks.begin());
    sharers_ = std::min(ranks_per_device_ > 0 ? ranks_per_device_ : static_cast<int>(ranks.size()),
                        static_cast<int>(ranks.size()));
    // One device by name is each process's own, as where a launcher gives each another one to see.
    if (is_one && parallel.ranks_per_gpu == 0) {
      ranks_per_device_ = 0;
      sharers_ = 1;
    }
  }
  first_ = of_ranks(world).front();
}

int RankDevices::index_of(int rank, int world) const {
  if (ranks_per_device_ == 0) return candidates_.front();
  const auto place = static_cast<size_t>(rank / ranks_per_device_);
  if (place < candidates_.size()) return candidates_[place];
  const int ranks = is_process_per_rank_ ? rank + 1 : world;
  const int gpus = static_cast<int>(candidates_.size());
  throw_error(
      "--ranks-per-gpu: {} ranks with {} for each GPU need {} GPUs, found {}; --ranks-per-gpu {} puts more "
      "of "
      "them on one",
      ranks, ranks_per_device_, ceil_div(ranks, ranks_per_device_), gpus, ceil_div(ranks, gpus));
}

Device RankDevices::open(int index) {
  const auto found = std::ranges::find(indices_, index);
  if (found != indices_.end()) return Device(*drivers_[static_cast<size_t>(found - indices_.begin())]);
  drivers_.push_back(open_device(kind_, index));
  indices_.push_back(index);
  return Device(*drivers_.back());
}

std::vector<Device> RankDevices::of_ranks(int world) {
  if (kind_ == DeviceKind::cpu) return {Device()};
  if (is_process_per_rank_) return {open(index_of(first_rank_, world))};
  if (ranks_per_device_ == 0) return {open(candidates_.front())};
  std::vector<Device> devices;
  for (int rank = 0; rank < world; ++rank) devices.push_back(open(index_of(rank, world)));
  return devices;
}

}  // namespace chorale::engine
