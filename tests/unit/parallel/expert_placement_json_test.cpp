#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "parallel/expert_placement.h"
#include "unit/parallel/error_text.h"
#include "unit/parallel/random_draw.h"
#include "unit/random_cases.h"

namespace chorale::parallel {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr PlacementShape kShape{.num_layers = 2, .num_experts = 3, .ep_size = 2};  // two slots on each rank

ExpertPlacement read(const std::string& text, const PlacementShape& shape = kShape) {
  return ExpertPlacement::from_json(text, "--init-expert-location load.json", shape);
}

std::string read_error(const std::string& text, const PlacementShape& shape = kShape) {
  return error_text([&] { read(text, shape); });
}

TEST(ExpertPlacementJson, MapIsTakenAsItIs) {
  const auto placement = read(R"({"physical_to_logical_map": [[2, 1, 0, 0], [0, 1, 2, 1]], "note": "x"})");
  EXPECT_THAT(placement.physical_to_logical(0), ElementsAre(2, 1, 0, 0));
  EXPECT_THAT(placement.physical_to_logical(1), ElementsAre(0, 1, 2, 1));
}

TEST(ExpertPlacementJson, CountsAreBalanced) {
  const auto placement = read(R"({"logical_count": [[9, 1, 1], [1, 1.5, 40]]})");
  EXPECT_EQ(placement, ExpertPlacement::balanced(kShape, {{9, 1, 1}, {1, 1.5, 40}}));
  EXPECT_EQ(placement.replicas(0, 0).size(), 2U);
  EXPECT_EQ(placement.replicas(1, 2).size(), 2U);
}

TEST(ExpertPlacementJson, WhatIsWrittenReadsBack) {
  RandomDraw draw(31);
  for (int i = 0; i < 200; ++i) {
    const PlacementShape shape{draw.between(1, 5), draw.between(1, 40), draw.between(1, 9), draw.below(9)};
    LoadRows load;
    for (int layer = 0; layer < shape.num_layers; ++layer) {
      load.emplace_back();
      for (int e = 0; e < shape.num_experts; ++e) load.back().push_back(draw.below(1000));
    }
    const auto placement = ExpertPlacement::balanced(shape, load);
    EXPECT_EQ(read(placement.to_json(), shape), placement);
  }
  EXPECT_EQ(ExpertPlacement::trivial(kShape).to_json(),
            "{\"physical_to_logical_map\": [\n[0, 1, 2, 0],\n[0, 1, 2, 0]\n]}\n");
}

TEST(ExpertPlacementJson, ErrorsNameTheFileAndTheField) {
  for (const char* text :
       {"", "[]", "{", "{}", "1e999", R"({"logical_count": [], "physical_to_logical_map": []})"})
    EXPECT_THAT(read_error(text), HasSubstr("--init-expert-location load.json: ")) << text;
  EXPECT_THAT(read_error("{}"), AllOf(HasSubstr("physical_to_logical_map"), HasSubstr("logical_count")));
  EXPECT_THAT(read_error(R"({"logical_count": 5})"), HasSubstr("logical_count is 5"));
  EXPECT_THAT(read_error(R"({"logical_count": [[1,2,3], null]})"),
              HasSubstr("logical_count has null for layer 1"));
  EXPECT_THAT(read_error(R"({"logical_count": [[1,2,3],[1,2,"x"]]})"),
              HasSubstr("logical_count has \"x\" in layer 1"));
  EXPECT_THAT(read_error(R"({"logical_count": [[1,2,3],[1,2,-1]]})"),
              HasSubstr("logical_count has -1 in layer 1"));
}

TEST(ExpertPlacementJson, WidthsAreCheckedAgainstTheModel) {
  EXPECT_THAT(read_error(R"({"logical_count": [[1,2,3]]})"),
              HasSubstr("logical_count has 1 layers; the model has 2"));
  EXPECT_THAT(read_error(R"({"logical_count": [[1,2,3],[1,2]]})"),
              HasSubstr("logical_count has 2 experts in layer 1; the model has 3"));
  EXPECT_THAT(read_error(R"({"physical_to_logical_map": [[0,1,2,0]]})"),
              HasSubstr("has 1 layers; the model has 2"));
  EXPECT_THAT(read_error(R"({"physical_to_logical_map": [[0,1,2,0],[0,1,2]]})"),
              AllOf(HasSubstr("has 3 slots in layer 1"), HasSubstr("--ep-num-redundant-experts 0 on 2 ranks"),
                    HasSubstr("have 4")));
  EXPECT_THAT(
      read_error(R"({"physical_to_logical_map": [[0,1,2,0,1,2],[0,1,2,0,1,2]]})"),
      HasSubstr("has 6 slots in layer 0; 3 experts with --ep-num-redundant-experts 0 on 2 ranks have 4; "
                "--ep-num-redundant-experts 3 makes 6"));
  for (const char* bad : {"3", "-1", "1.5", "\"0\"", "99999999999999999999", "4294967296", "null", "[[1]]"})
    EXPECT_THAT(
        read_error(fmt::format("{{\"physical_to_logical_map\": [[0,1,2,0],[0,1,2,{}]]}}", bad)),
        AllOf(HasSubstr("physical_to_logical_map has"), HasSubstr("in layer 1"), HasSubstr("from 0 to 2")));
  EXPECT_THAT(read_error(R"({"physical_to_logical_map": [[0,1,2,0],[0,1,1,0]]})"),
              HasSubstr("no slot for expert 2 in layer 1"));
}

TEST(ExpertPlacementJson, FlagsOutOfRangeAreNotTheFilesFault) {
  const std::string error = read_error("{}", {.num_layers = 1, .num_experts = 1, .num_redundant = -1});
  EXPECT_EQ(error.find("--ep-num-redundant-experts is -1"), 0U) << error;
}

TEST(ExpertPlacementJson, DeepNestingDoesNotOverflowTheStack) {
  const std::string deep(1000000, '[');
  EXPECT_NE(read_error("{\"logical_count\": [[" + deep + std::string(1000000, ']') + "]]}"), "");
  EXPECT_NE(read_error("{\"logical_count\": " + deep), "");
}

TEST(ExpertPlacementJson, RandomlyBrokenTextIsReadOrRefused) {
  RandomDraw draw(32);
  const std::string whole = ExpertPlacement::trivial(kShape).to_json();
  for (int i = 0; i < random_cases(20000); ++i) {
    std::string text = whole;
    for (int n = draw.between(1, 3); n > 0; --n)
      text[static_cast<size_t>(draw.below(static_cast<int>(text.size())))] =
          static_cast<char>(draw.between(32, 126));
    error_text([&] { EXPECT_EQ(read(text).shape(), kShape); });
  }
}

}  // namespace
}  // namespace chorale::parallel
