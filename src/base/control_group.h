// Limits of the control groups that this process is in (Linux cgroup v1 and v2): its own group and all above
// it, as containers, systemd and Slurm set them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace chorale {

struct ControlGroupLimits {
  // Bytes that may still be taken before the tightest limit is met. Pages of files count as free, because the
  // kernel takes them back first. Absent without a limit.
  std::optional<uint64_t> memory_left;
  std::filesystem::path memory_group;  // the folder of the group that sets it
  // Processors' worth of time, the smallest quota. Absent without one.
  std::optional<double> processors;
  std::filesystem::path processors_group;
};

// Reads what proc/self tells below `root`, and the mounted hierarchies there. What cannot be read sets no
// limit.
ControlGroupLimits control_group_limits(const std::filesystem::path& root = "/");

}  // namespace chorale
