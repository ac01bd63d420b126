// Machine profiles as files: the JSON that `chorale calibrate` writes and that ships in machines/.
//
//   {"format": "chorale-machine-1", "name": ..., "kind": as MachineProfile has it, "instruction_set": ...,
//    "cores": ..., "devices": ..., "memory_bytes": ...,
//    "figures": {"read_bandwidth": {"source": ..., "points": [[x, y], ...]}, ...}}
//
// with a figure for each of parallel::named_curves(). Fields that are not known are refused.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "parallel/machine_profile.h"

namespace chorale::engine {

// The same text for equal profiles; ends with a line break.
std::string machine_to_json(const parallel::MachineProfile& machine);

// Throws Error that names `source` and the field, what was expected and what was found.
parallel::MachineProfile parse_machine(std::string_view text, std::string_view source);

// The file is bounded at 1 MiB. Throws Error as above, or that names --machine.
parallel::MachineProfile load_machine(const std::filesystem::path& file);

}  // namespace chorale::engine
