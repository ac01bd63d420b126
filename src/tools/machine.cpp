#include "tools/machine.h"

#include <array>
#include <chrono>
#include <ctime>
#include <fstream>
#include <string>

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/memory_info.h"
#include "base/thread_pool.h"

namespace chorale::tools {
namespace {

// The first value of a field in /proc/cpuinfo; empty where there is none.
std::string processor_field(std::string_view name) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with(name) && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "";
}

std::string compiler_name() {
#if defined(__clang__)
  return fmt::format("clang {}.{}", __clang_major__, __clang_minor__);
#else
  return fmt::format("g++ {}.{}", __GNUC__, __GNUC_MINOR__);
#endif
}

}  // namespace

Machine this_machine() {
  Machine machine;
  utsname system{};
  const bool known = uname(&system) == 0;
  machine.processor = processor_field("model name");
  if (machine.processor.empty()) machine.processor = known ? system.machine : "unknown";
  machine.system = known ? fmt::format("{} {}", system.sysname, system.release) : "unknown";
  machine.cores = available_cores();
  machine.memory =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  machine.compiler = compiler_name();
  return machine;
}

std::string describe(const Machine& machine) {
  return fmt::format("{}, {} cores, {} of memory, {}", machine.processor, machine.cores,
                     format_bytes(machine.memory), machine.system);
}

std::string utc_now() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M UTC", &parts);
  return text.data();
}

}  // namespace chorale::tools
