// How much memory this process may still take.
#pragma once

#include <cstdint>
#include <string>

namespace chorale {

// Bytes: the smallest of what the system has available (MemAvailable) and what is left of the limits of the
// control groups that this process is in (base/control_group.h).
uint64_t available_memory();

// How many cores and how much memory this process may use, and what sets the bounds, for the log: "2 cores
// (quota of /sys/fs/cgroup/a), 3.14 GB of memory (free on this machine)".
std::string describe_limits();

// Bytes that this process has had in memory at most; 0 where the system does not tell.
uint64_t peak_resident_memory();

// Gives the system back what the allocator holds without use. Takes some milliseconds.
void return_free_memory();

// "27.8 MB", "1.75 GB": decimal units, as disks and bandwidths are told.
std::string format_bytes(uint64_t bytes);

}  // namespace chorale
