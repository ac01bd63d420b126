#include "base/memory_info.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>
#include <string>

#include <fmt/format.h>
#include <malloc.h>

#include "base/control_group.h"
#include "base/thread_pool.h"

namespace chorale {
namespace {

uint64_t system_available() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  uint64_t kibibytes = 0;
  std::string unit;
  while (meminfo >> key >> kibibytes) {
    std::getline(meminfo, unit);
    if (key == "MemAvailable:") return kibibytes * 1024;
  }
  return std::numeric_limits<uint64_t>::max();
}

}  // namespace

uint64_t available_memory() {
  const uint64_t system = system_available();
  return std::min(system, control_group_limits().memory_left.value_or(system));
}

std::string describe_limits() {
  const ControlGroupLimits limits = control_group_limits();
  const int cores = available_cores();
  const bool by_quota = limits.processors && std::max(1.0, std::floor(*limits.processors)) <= cores;
  const std::string cores_source =
      by_quota ? fmt::format("quota of {}", limits.processors_group.string()) : "affinity";
  const uint64_t memory = available_memory();
  const bool by_group = limits.memory_left && *limits.memory_left < system_available();
  const std::string memory_source =
      by_group ? fmt::format("limit of {}", limits.memory_group.string()) : "free on this machine";
  return fmt::format("{} core{} ({}), {} of memory ({})", cores, cores == 1 ? "" : "s", cores_source,
                     format_bytes(memory), memory_source);
}

uint64_t peak_resident_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    uint64_t kibibytes = 0;
    if (std::sscanf(line.c_str(), "VmHWM: %lu kB", &kibibytes) == 1) return kibibytes * 1024;
  }
  return 0;
}

void return_free_memory() {
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

std::string format_bytes(uint64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (bytes >= 1'000'000'000) return fmt::format("{:.2f} GB", value / 1e9);
  if (bytes >= 1'000'000) return fmt::format("{:.1f} MB", value / 1e6);
  if (bytes >= 1'000) return fmt::format("{:.1f} kB", value / 1e3);
  return fmt::format("{} bytes", bytes);
}

}  // namespace chorale
