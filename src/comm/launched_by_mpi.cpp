// Apart from the rest of MpiWorld, because builds without MPI ask it too.
#include <charconv>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <system_error>

#include "comm/mpi/mpi_world.h"

namespace chorale::comm {

bool MpiWorld::is_launched_by_mpi() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"})
    if (std::getenv(name) != nullptr) return true;
  return false;
}

// The nearest launcher first: mpirun may run inside an allocation of Slurm, and a step of Slurm has tasks of
// its own number.
std::optional<MpiWorld::Launch> MpiWorld::launch() {
  for (const char* name :
       {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"}) {
    const char* value = std::getenv(name);
    if (value == nullptr) continue;
    const std::string_view text = value;
    Launch launch{.variable = name};
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), launch.processes);
    if (parsed.ec == std::errc() && parsed.ptr == text.data() + text.size()) return launch;
  }
  return std::nullopt;
}

}  // namespace chorale::comm
