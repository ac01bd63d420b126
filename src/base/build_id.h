// What the linker has called this program.
#pragma once

#include <string>

namespace chorale {

// The build ID of the program's file, in hexadecimal digits: another one means that something else was
// compiled or linked. Empty where the linker has written none.
std::string build_id();

}  // namespace chorale
