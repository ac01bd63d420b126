#include "comm/mpi/check.h"

#include <string_view>

#include <fmt/format.h>

#include "comm/communicator.h"

namespace chorale::comm::mpi {

void check(int code, const char* operation) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw CollectiveError(
      -1, fmt::format("{}: {}", operation, std::string_view(text, static_cast<size_t>(length))));
}

}  // namespace chorale::comm::mpi
