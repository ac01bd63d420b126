// How many files and connections this process may have open.
#pragma once

#include <cstdint>

namespace chorale {

// Raises the limit as far as the system lets this process, and gives it; the largest number for no limit.
uint64_t raise_file_limit();

}  // namespace chorale
