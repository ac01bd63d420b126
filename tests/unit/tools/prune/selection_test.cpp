#include "tools/prune/selection.h"

#include <limits>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "unit/io/test_files.h"

namespace chorale::tools {
namespace {

using io::error_of;
using Kind = PruneMethod::Kind;
using testing::AllOf;
using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

io::ModelConfig config_of(int64_t layers, int64_t experts) {
  io::ModelConfig config;
  config.num_hidden_layers = layers;
  config.num_experts = experts;
  config.num_experts_per_tok = 1;
  return config;
}

// Few different values, so that there are ties.
std::vector<ExpertScores> random_scores(const io::ModelConfig& config, std::mt19937& random) {
  std::vector<ExpertScores> scores(static_cast<size_t>(config.num_hidden_layers));
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    if (!config.is_sparse_layer(layer)) continue;
    for (int64_t e = 0; e < config.num_experts; ++e) {
      ExpertScores& s = scores[static_cast<size_t>(layer)];
      s.tokens.push_back(static_cast<int64_t>(random() % 5));
      s.gate_weight.push_back(static_cast<double>(random() % 5) / 3);
      s.reap.push_back(static_cast<double>(random() % 5) / 7);
    }
  }
  return scores;
}

double score(const PruneMethod& method, const ExpertScores& scores, size_t expert) {
  if (method.kind == Kind::frequency) return static_cast<double>(scores.tokens[expert]);
  return method.kind == Kind::reap ? scores.reap[expert] : scores.gate_weight[expert];
}

TEST(SelectExperts, KeepsTheHighestScoresAndOfEqualOnesTheLowerIndex) {
  std::mt19937 random(3);
  for (int round = 0; round < 300; ++round) {
    io::ModelConfig config = config_of(1 + random() % 4, 1 + random() % 20);
    if (config.num_hidden_layers > 1 && random() % 2 == 0) config.mlp_only_layers = {1};
    const PruneMethod method{.kind = std::array{Kind::frequency, Kind::reap, Kind::router}[random() % 3]};
    const auto n = static_cast<int64_t>(1 + random() % static_cast<uint64_t>(config.num_experts));
    const std::vector<ExpertScores> scores = random_scores(config, random);
    ASSERT_EQ(check_prune_method(config, method, n), n);
    const KeptExperts kept = select_experts(config, method, n, scores);
    ASSERT_EQ(kept.size(), scores.size());
    for (size_t layer = 0; layer < kept.size(); ++layer) {
      if (!config.is_sparse_layer(static_cast<int64_t>(layer))) {
        EXPECT_TRUE(kept[layer].empty());
        continue;
      }
      ASSERT_EQ(kept[layer].size(), static_cast<size_t>(n));
      // Each expert is kept exactly when fewer than n come before it.
      for (size_t e = 0; e < static_cast<size_t>(config.num_experts); ++e) {
        const double own = score(method, scores[layer], e);
        int64_t before = 0;
        for (size_t other = 0; other < static_cast<size_t>(config.num_experts); ++other) {
          const double its = score(method, scores[layer], other);
          before += its > own || (its == own && other < e) ? 1 : 0;
        }
        EXPECT_EQ(std::ranges::count(kept[layer], static_cast<int32_t>(e)), before < n ? 1 : 0);
      }
      EXPECT_TRUE(std::ranges::is_sorted(kept[layer]));
    }
  }
}

TEST(SelectExperts, TakesTheFirstOrThoseThatAreListed) {
  io::ModelConfig config = config_of(3, 8);
  config.mlp_only_layers = {1};
  EXPECT_EQ(select_experts(config, {.kind = Kind::first}, 3, {}), (KeptExperts{{0, 1, 2}, {}, {0, 1, 2}}));

  const PruneMethod list = parse_prune_method("list:7,3");
  EXPECT_EQ(check_prune_method(config, list, {}), 2);
  EXPECT_EQ(check_prune_method(config, list, 2), 2);
  EXPECT_EQ(select_experts(config, list, 2, {}), (KeptExperts{{3, 7}, {}, {3, 7}}));

  const io::TemporaryFolder folder;
  for (const char* dense : {"null", "[]"}) {
    folder.write("kept.json", fmt::format("[[5, 1], {}, [0, 7]]", dense));
    const PruneMethod file = parse_prune_method("list:" + (folder / "kept.json").string());
    EXPECT_EQ(check_prune_method(config, file, {}), 2);
    EXPECT_EQ(select_experts(config, file, 2, {}), (KeptExperts{{1, 5}, {}, {0, 7}}));
  }
}

TEST(SelectExperts, RefusesScoresThatAreNotNumbers) {
  const io::ModelConfig config = config_of(1, 2);
  const std::vector<ExpertScores> scores = {
      {.tokens = {1, 1}, .gate_weight = {1, 1}, .reap = {1, std::numeric_limits<double>::quiet_NaN()}}};
  EXPECT_THAT(error_of([&] { select_experts(config, {.kind = Kind::reap}, 1, scores); }),
              AllOf(StartsWith("--method reap: layer 0"), HasSubstr("expert 1 is NaN")));
  EXPECT_EQ(select_experts(config, {.kind = Kind::router}, 1, scores), (KeptExperts{{0}}));
}

TEST(ParsePruneMethod, KnowsEveryMethod) {
  for (const Kind kind : {Kind::first, Kind::frequency, Kind::reap, Kind::router, Kind::average, Kind::fit}) {
    EXPECT_EQ(parse_prune_method(name_of(kind)), PruneMethod{.kind = kind});
    EXPECT_EQ(needs_calibration({.kind = kind}), kind != Kind::first);
    EXPECT_EQ(merges_experts({.kind = kind}), kind == Kind::average || kind == Kind::fit);
  }
  EXPECT_EQ(parse_prune_method("list:3"), (PruneMethod{.kind = Kind::list, .list = {3}}));
  EXPECT_FALSE(needs_calibration(parse_prune_method("list:3,7")));
}

TEST(ParsePruneMethod, RefusesWhatItDoesNotKnow) {
  const auto refusal = [](const std::string& text) { return error_of([&] { parse_prune_method(text); }); };
  for (const std::string text : {"", "list", "First", "reap ", "best"}) {
    EXPECT_EQ(
        refusal(text),
        "--method: expected first, list:3,7, list:FILE, frequency, reap, router, average or fit, found \"" +
            text + "\"");
  }
  EXPECT_THAT(refusal("list:"), AllOf(StartsWith("--method list:"), EndsWith("found none")));
  EXPECT_THAT(refusal("list:3,,7"), AllOf(StartsWith("--method list:3,,7:"), EndsWith("found \"\"")));
  EXPECT_THAT(refusal("list:3,"), EndsWith("found \"\""));
  EXPECT_THAT(refusal("list:1-2"), EndsWith("found \"1-2\""));
  EXPECT_THAT(refusal("list:99999999999"), EndsWith("found \"99999999999\""));
  EXPECT_THAT(refusal("list:absent.json"), StartsWith("absent.json: cannot open"));
}

TEST(ParsePruneMethod, RefusesFilesOfAnotherShape) {
  const io::TemporaryFolder folder;
  const std::string file = (folder / "kept.json").string();
  const auto refusal = [&](const std::string& text) {
    folder.write("kept.json", text);
    const std::string message = error_of([&] { parse_prune_method("list:" + file); });
    EXPECT_THAT(message, StartsWith(file + ": "));
    return message;
  };
  EXPECT_THAT(refusal(R"({"0": [1]})"), HasSubstr("expected a JSON array, found an object"));
  EXPECT_THAT(refusal("3"), HasSubstr("expected a JSON array, found 3"));
  EXPECT_THAT(refusal("[[1]"), HasSubstr("invalid JSON"));
  EXPECT_THAT(refusal(""), HasSubstr("invalid JSON"));
  EXPECT_THAT(refusal("[[1], 2]"), EndsWith("layer 1: expected an array of experts, found 2"));
  EXPECT_THAT(refusal(R"([["1"]])"), EndsWith(R"(layer 0: expected numbers of experts, found "1")"));
  EXPECT_THAT(refusal("[[1.5]]"), EndsWith("found 1.5"));
  EXPECT_THAT(refusal("[[1e300]]"), HasSubstr("expected numbers of experts"));
  EXPECT_THAT(refusal("[[-9223372036854775808]]"), HasSubstr("expected numbers of experts"));
  EXPECT_THAT(refusal("[[18446744073709551615]]"), HasSubstr("expected numbers of experts"));
}

TEST(CheckPruneMethod, RefusesNumbersOfExpertsThatDoNotFit) {
  const io::ModelConfig config = config_of(2, 8);
  const auto refusal = [&](const std::string& method, std::optional<int64_t> n) {
    return error_of([&] { check_prune_method(config, parse_prune_method(method), n); });
  };
  for (const int64_t n : {-1, 0, 9}) {
    for (const char* method : {"first", "list:1", "reap", "fit"}) {
      EXPECT_EQ(
          refusal(method, n),
          fmt::format("--experts: expected a number from 1 to 8, as many as the model has, found {}", n));
    }
  }
  EXPECT_EQ(refusal("reap", {}), "--experts: expected a number from 1 to 8 for --method reap, found none");
  for (const char* method : {"average", "fit"}) {
    EXPECT_EQ(check_prune_method(config, parse_prune_method(method), {}), 1);
    EXPECT_EQ(check_prune_method(config, parse_prune_method(method), 1), 1);
    EXPECT_EQ(refusal(method, 2),
              fmt::format("--experts: expected 1, for --method {} makes one expert of all, found 2", method));
  }
  EXPECT_EQ(refusal("list:1,2", 3), "--experts: expected 2, the length of the list of --method, found 3");
}

TEST(CheckPruneMethod, RefusesListsThatDoNotFit) {
  io::ModelConfig config = config_of(3, 8);
  config.mlp_only_layers = {1};
  const io::TemporaryFolder folder;
  const std::string file = (folder / "kept.json").string();
  const auto refusal = [&](const std::string& method, std::optional<int64_t> n = {}) {
    return error_of([&] { check_prune_method(config, parse_prune_method(method), n); });
  };
  EXPECT_EQ(refusal("list:1,8"), "--method list: expected experts from 0 to 7, found 8");
  EXPECT_EQ(refusal("list:-1"), "--method list: expected experts from 0 to 7, found -1");
  EXPECT_EQ(refusal("list:3,1,3"), "--method list: expected each expert once, found 3 twice");

  const auto file_refusal = [&](const std::string& text, std::optional<int64_t> n = {}) {
    folder.write("kept.json", text);
    return refusal("list:" + file, n);
  };
  EXPECT_EQ(file_refusal("[[1], []]"),
            file + ": expected an array for each of the model's 3 layers, found 2");
  EXPECT_EQ(file_refusal("[]"), file + ": expected an array for each of the model's 3 layers, found 0");
  EXPECT_EQ(file_refusal("[[1], [], [8]]"), file + ": layer 2: expected experts from 0 to 7, found 8");
  EXPECT_EQ(file_refusal("[[1, 1], [], [2, 3]]"),
            file + ": layer 0: expected each expert once, found 1 twice");
  EXPECT_EQ(file_refusal("[[1], [], [2, 3]]"),
            file + ": layer 2: expected 1 experts as in layer 0, for num_experts is one number, found 2");
  EXPECT_EQ(file_refusal("[[1], [], null]"), file + ": layer 2: expected at least one expert, found none");
  EXPECT_EQ(file_refusal("[[1], [1], [1]]"),
            file + ": layer 1: expected no experts, for the layer is dense, found 1");
  EXPECT_EQ(file_refusal("[[1], [], [2]]", 2),
            fmt::format("--experts: expected 1, the length of the lists in {}, found 2", file));
}

TEST(CheckPruneMethod, RefusesAModelWithoutExperts) {
  io::ModelConfig all_dense = config_of(2, 8);
  all_dense.mlp_only_layers = {0, 1};
  for (const io::ModelConfig& config : {config_of(2, 0), all_dense}) {
    for (const Kind kind : {Kind::first, Kind::reap, Kind::fit}) {
      EXPECT_EQ(error_of([&] { check_prune_method(config, {.kind = kind}, 1); }),
                "--model-path: expected a model with experts, found one whose layers are all dense");
    }
  }
}

}  // namespace
}  // namespace chorale::tools
