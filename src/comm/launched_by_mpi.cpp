// Apart from the rest of MpiWorld, because builds without MPI ask it too.
#include <cstdlib>

#include "comm/mpi/mpi_world.h"

namespace chorale::comm {

bool MpiWorld::is_launched_by_mpi() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"})
    if (std::getenv(name) != nullptr) return true;
  return false;
}

}  // namespace chorale::comm
