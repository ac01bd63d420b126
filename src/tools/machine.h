// Where and when a report was made.
#pragma once

#include <cstdint>
#include <string>

namespace chorale::tools {

struct Machine {
  std::string processor;
  std::string system;    // kernel and its version
  int cores = 0;         // that this process may use
  uint64_t memory = 0;   // bytes
  std::string compiler;  // that built this program
};
Machine this_machine();

// "Intel Xeon, 2 cores, 24.0 GiB of memory, Linux 6.1"
std::string describe(const Machine& machine);

// "2025-11-25 08:16 UTC"
std::string utc_now();

}  // namespace chorale::tools
