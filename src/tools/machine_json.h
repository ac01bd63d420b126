// The machine as reports write it in JSON.
#pragma once

#include <nlohmann/json.hpp>

#include "tools/machine.h"

namespace chorale::tools {

inline nlohmann::ordered_json machine_json(const Machine& machine) {
  return {{"processor", machine.processor},
          {"system", machine.system},
          {"cores", machine.cores},
          {"memory_bytes", machine.memory},
          {"compiler", machine.compiler}};
}

}  // namespace chorale::tools
