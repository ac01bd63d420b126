# MPI for src/comm/mpi. CHORALE_HAS_MPI says whether this build has it.

set(CHORALE_MPI AUTO CACHE STRING "MPI: AUTO (when it is installed), ON (required) or OFF")
set_property(CACHE CHORALE_MPI PROPERTY STRINGS AUTO ON OFF)

set(CHORALE_HAS_MPI OFF)
if(CHORALE_MPI STREQUAL "AUTO")
  find_package(MPI QUIET COMPONENTS C)
  set(CHORALE_HAS_MPI ${MPI_C_FOUND})
elseif(CHORALE_MPI)
  find_package(MPI REQUIRED COMPONENTS C)
  set(CHORALE_HAS_MPI ON)
endif()
message(STATUS "MPI: ${CHORALE_HAS_MPI}")
