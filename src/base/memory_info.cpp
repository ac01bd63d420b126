#include "base/memory_info.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <limits>
#include <string>

#include <fmt/format.h>

#include "base/control_group.h"

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

uint64_t peak_resident_memory() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    uint64_t kibibytes = 0;
    if (std::sscanf(line.c_str(), "VmHWM: %lu kB", &kibibytes) == 1) return kibibytes * 1024;
  }
  return 0;
}

std::string format_bytes(uint64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (bytes >= 1'000'000'000) return fmt::format("{:.2f} GB", value / 1e9);
  if (bytes >= 1'000'000) return fmt::format("{:.1f} MB", value / 1e6);
  if (bytes >= 1'000) return fmt::format("{:.1f} kB", value / 1e3);
  return fmt::format("{} bytes", bytes);
}

}  // namespace chorale
