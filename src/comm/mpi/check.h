// mpi.h without its C++ bindings, and error codes as exceptions.
#pragma once

#ifndef OMPI_SKIP_MPICXX
#define OMPI_SKIP_MPICXX 1
#endif
#include <mpi.h>

namespace chorale::comm::mpi {

// Throws CollectiveError with MPI's own words unless the code says success. operation: "MPI_Ibcast".
void check(int code, const char* operation);

}  // namespace chorale::comm::mpi
