#include "engine/machine_file.h"

#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/error.h"
#include "io/file_access.h"
#include "source_dir.h"
#include "unit/parallel/example_machines.h"

namespace chorale::engine {
namespace {

using parallel::MachineProfile;

std::string error_of(const std::string& text) {
  try {
    parse_machine(text, "m.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// The text with one place changed; the place must be there.
std::string changed(std::string text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

TEST(MachineFile, ComesBackAsItWasWritten) {
  MachineProfile cpu = parallel::example_cpu();
  cpu.instruction_set = "avx2";
  cpu.name = "a \"quoted\" name, \xC3\xA9";
  cpu.read_bandwidth.points = {{1e6, 1.0 / 3}, {1e7, 123456789.123}};
  for (const MachineProfile& machine : {cpu, parallel::example_gpus()}) {
    const std::string text = machine_to_json(machine);
    EXPECT_EQ(parse_machine(text, "m.json"), machine);
    EXPECT_EQ(machine_to_json(parse_machine(text, "m.json")), text);
  }
}

TEST(MachineFile, FaultsNameTheFileAndTheField) {
  const std::string text = machine_to_json(parallel::example_cpu());
  EXPECT_EQ(error_of(text), "");
  const std::pair<std::string, std::string> faults[] = {
      {changed(text, "chorale-machine-1", "chorale-machine-2"), "\"format\""},
      {changed(text, "\"kind\": \"cpu\"", "\"kind\": \"tpu\""), "kind"},
      {changed(text, "\"cores\": 2", "\"cores\": 0"), "\"cores\""},
      {changed(text, "\"cores\": 2", "\"cores\": 2, \"colour\": 3"), "\"colour\""},
      {changed(text, "\"cores\": 2", "\"cores\": 2, \"cores\": 3"), "cores"},
      {changed(text, "\"attention\"", "\"attend\""), "figures.attend"},
      {changed(text, "\"op_overhead\": {\"source\":\"round\",", "\"op_overhead\": {"),
       "figures.op_overhead.source"},
      {changed(text, "[[1.0,1000000000.0]]", "[[1.0,-1.0]]"), "chunk_sums"},
      {changed(text, "[[1.0,1000000000.0]]", "[[1.0,\"2\"]]"), "figures.chunk_sums.points"},
      {changed(text, "[[1.0,1000000000.0]]", "[]"), "chunk_sums"},
      {"[]", "m.json"},
      {"{", "m.json"}};
  for (const auto& [fault, field] : faults) {
    const std::string error = error_of(fault);
    EXPECT_NE(error.find("m.json"), std::string::npos) << error;
    EXPECT_NE(error.find(field), std::string::npos) << error << "\n" << field;
  }
}

TEST(MachineFile, KnownMachinesCanBeRead) {
  int found = 0;
  for (const auto& entry : std::filesystem::directory_iterator(source_dir() / "machines")) {
    if (entry.path().extension() != ".json") continue;
    const MachineProfile machine = load_machine(entry.path());
    EXPECT_EQ(machine_to_json(machine), io::read_text_file(entry.path(), uint64_t{1} << 20)) << entry.path();
    ++found;
  }
  EXPECT_GE(found, 3);
}

TEST(MachineFile, AFileThatIsNotThereNamesTheFlag) {
  try {
    load_machine("/nowhere/machine.json");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("--machine"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace chorale::engine
