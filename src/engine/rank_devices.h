// The devices of this process's ranks.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/device.h"
#include "engine/load_options.h"
#include "engine/memory_plan.h"
#include "engine/parallel_plan.h"
#include "engine/rank_processes.h"

namespace chorale::engine {

// Rank r has the r / ranks_per_gpu-th of the devices that the options name; over MPI the ranks of a host are
// counted from 0. All devices are of one kind; on the CPU, and on the reference device unless the options say
// otherwise, ranks share one. Used by one thread at a time, but for first().
class RankDevices {
 public:
  RankDevices() = default;  // the CPU
  // Opens those of a strategy of `world` ranks. Throws Error that names the flag: where there are too few, or
  // one cannot be used.
  RankDevices(const LoadOptions& options, int world, const RankProcesses& processes);

  Device first() const { return first_; }
  // Of the ranks of this process when there are `world` in all: one for each, or one for all. Opens what has
  // not been needed before; throws likewise.
  std::vector<Device> of_ranks(int world);
  // Processes that share each device.
  int sharers() const { return sharers_; }

 private:
  int index_of(int rank, int world) const;
  Device open(int index);

  DeviceKind kind_ = DeviceKind::cpu;
  std::vector<int> candidates_;
  int ranks_per_device_ = 0;  // 0: all ranks share one
  int first_rank_ = 0;        // of this process, as those of its host are counted
  bool is_process_per_rank_ = false;
  int sharers_ = 1;
  std::vector<std::unique_ptr<DeviceDriver>> drivers_;
  std::vector<int> indices_;  // theirs
  Device first_;
};

// "cuda:0, NVIDIA H200", or "cuda:0 and cuda:1, NVIDIA H200".
std::string describe_devices(const std::vector<Device>& devices);

// Bytes that this process may still take of a device, or of the machine.
uint64_t free_memory(const Device& device);

// What there is for ranks: a device for each, or one for all.
struct DeviceRoom {
  const std::vector<Device>& devices;
  int sharers = 1;     // processes that share each device
  uint64_t freed = 0;  // bytes that will be free beside those that are
};

// What the ranks `here` of a plan take; of the device that has room for the fewest tokens.
MemoryPlan plan_of_devices(const io::ModelConfig& config, const model::WeightFormats& formats,
                           const LoadOptions& options, const ParallelPlan& parallel,
                           std::span<const int> here, const DeviceRoom& room);

// Whether each rank stores its own part (ParallelPlan::ranks_store_apart).
bool store_apart(const parallel::Strategy& strategy, const std::vector<Device>& devices);

}  // namespace chorale::engine
