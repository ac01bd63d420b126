#include "tools/prune/pruning_record.h"

#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "unit/io/test_files.h"

namespace chorale::tools {
namespace {

PruningRecord full_record() {
  return {.version = "0.1.0",
          .method = PruneMethod::Kind::reap,
          .num_experts = 1,
          .num_source_experts = 2,
          .seed = 7,
          .calibration = {{.file = "/home/me/text.txt", .sha256 = "ab", .tokens = 1024, .window = 512}},
          .held_out = {{.file = "dir/held.txt",
                        .sha256 = "cd",
                        .tokens = 100,
                        .window = 50,
                        .nll_before = 3.5,
                        .nll_after = 4.25}},
          .fit = {{.width = 8, .steps = 3, .relative_errors = {0, 0.125}}},
          .scores = {{},
                     {.tokens = {3, 5},
                      .gate_weight = {0.5, 1.0 / 3},
                      .reap = {2, std::numeric_limits<double>::quiet_NaN()}}},
          .kept = {{}, {1}}};
}

TEST(PruningRecord, IsReadableAndWithoutPaths) {
  EXPECT_EQ(pruning_json(full_record()), R"({
  "chorale_version": "0.1.0",
  "method": "reap",
  "num_experts": 1,
  "num_source_experts": 2,
  "seed": 7,
  "calibration": {"file":"text.txt","sha256":"ab","tokens":1024,"window":512},
  "held_out": {"file":"held.txt","sha256":"cd","tokens":100,"window":50,"nll_before":3.5,"nll_after":4.25},
  "fit": {"width":8,"steps":3,"relative_errors":[0.0,0.125]},
  "layers": [
    {"layer":0,"kept":[],"tokens":[],"gate_weight":[],"reap":[]},
    {"layer":1,"kept":[1],"tokens":[3,5],"gate_weight":[0.5,0.3333333333333333],"reap":[2.0,null]}
  ]
}
)");
}

TEST(PruningRecord, LeavesOutWhatThereIsNot) {
  const std::string text =
      pruning_json({.version = "1", .method = PruneMethod::Kind::first, .num_experts = 1, .kept = {{0}}});
  EXPECT_EQ(nlohmann::json::parse(text),
            nlohmann::json::parse(R"({"chorale_version": "1", "method": "first", "num_experts": 1,
                "num_source_experts": 0, "seed": 0, "layers": [{"layer": 0, "kept": [0]}]})"));
  const auto none = nlohmann::json::parse(pruning_json({.method = PruneMethod::Kind::average}));
  EXPECT_EQ(none["layers"], nlohmann::json::array());
}

TEST(PruningRecord, IsWrittenAsPruningJson) {
  const io::TemporaryFolder folder;
  PruningRecord record = full_record();
  record.calibration->file = "odd\xff.txt";  // a file's name need not be UTF-8
  write_pruning_record(record, folder.path());
  EXPECT_EQ(io::read_all(folder / "pruning.json"), pruning_json(record));
  EXPECT_EQ(nlohmann::json::parse(pruning_json(record))["calibration"]["file"], "odd\ufffd.txt");
}

}  // namespace
}  // namespace chorale::tools
