// The bundled model in float32 against the reference results of transformers: hidden states and router logits
// layer by layer, and the logits.
#include <cmath>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "source_dir.h"
#include "unit/model/loaded.h"

namespace chorale::model {
namespace {

constexpr float kTolerance = 2e-4F;

std::filesystem::path golden(const char* name) {
  return source_dir() / "tests" / "golden" / name;
}

class Golden {
 public:
  Golden() : tensors_(io::Checkpoint::open_file(golden("demo_golden.safetensors"))) {
    std::ifstream(golden("demo_golden.json")) >> json_;
  }
  std::vector<int32_t> ids(size_t prompt) const { return json_["prompts"][prompt]["ids"]; }
  std::vector<float> tensor(const std::string& name) const {
    const io::TensorEntry* entry = tensors_.find(name);
    if (entry == nullptr) return {};
    std::vector<float> values(entry->bytes.size() / sizeof(float));
    std::memcpy(values.data(), entry->bytes.data(), entry->bytes.size());
    return values;
  }

 private:
  io::Checkpoint tensors_;
  nlohmann::json json_;
};

void expect_near(std::span<const float> actual, std::span<const float> expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  ASSERT_FALSE(expected.empty()) << what;
  float worst = 0;
  for (size_t i = 0; i < actual.size(); ++i) worst = std::max(worst, std::abs(actual[i] - expected[i]));
  EXPECT_LE(worst, kTolerance) << what;
}

// Keeps what it sees as dense rows.
class Recorder : public StepObserver {
 public:
  explicit Recorder(const Stream& stream) : stream_(stream) {}
  void hidden(int64_t index, const Tensor& residual) override {
    keep(fmt::format("hidden{}", index), residual);
  }
  void router_logits(int64_t layer, const Tensor& logits) override {
    keep(fmt::format("router_logits{}", layer), logits);
  }
  std::map<std::string, std::vector<float>> seen;

 private:
  void keep(const std::string& name, const Tensor& tensor) {
    const std::vector<float> values = download<float>(stream_, tensor);
    seen[name].insert(seen[name].end(), values.begin(), values.end());
  }

  Stream stream_;
};

class GoldenOf : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Devices, GoldenOf, testing::Values("cpu", "ref"),
                         [](const auto& device) { return std::string(device.param); });

TEST_P(GoldenOf, HiddenStatesAndRouterLogitsOfEveryLayer) {
  const Golden reference;
  Loaded loaded = Loaded::bundled(DType::f32, GetParam());
  const Stream stream = loaded.stream();
  Recorder recorder(stream);
  const std::vector<int32_t> ids = reference.ids(0);
  loaded.logits(ids, Loaded::kTokens, &recorder);
  const int64_t layers = loaded.config.num_hidden_layers;
  for (int64_t l = 0; l < layers; ++l) {
    const std::string hidden = fmt::format("hidden{}", l);
    expect_near(recorder.seen[hidden], reference.tensor("prompt0." + hidden), hidden);
    const std::string router = fmt::format("router_logits{}", l);
    expect_near(recorder.seen[router], reference.tensor("prompt0." + router), router);
  }
  // The reference took the last one after the final norm.
  std::vector<float> last = recorder.seen[fmt::format("hidden{}", layers)];
  const ModelWeights weights = bind_weights(loaded.config, loaded.formats, loaded.stored, loaded.weights);
  const auto rows = static_cast<int64_t>(ids.size());
  const int64_t hidden = loaded.config.hidden_size;
  Arena arena(2 * Arena::dense_matrix_bytes(DType::f32, rows, hidden), loaded.device());
  const Tensor before = arena.dense_matrix(DType::f32, rows, hidden);
  const Tensor normed = arena.dense_matrix(DType::f32, rows, hidden);
  copy(stream, host_vector<float>(last).reshaped(rows, hidden), before);
  RmsNorm(weights.norm, static_cast<float>(loaded.config.rms_norm_eps)).forward(stream, before, normed);
  expect_near(download<float>(stream, normed), reference.tensor(fmt::format("prompt0.hidden{}", layers)),
              "the final norm");
}

TEST_P(GoldenOf, Logits) {
  const Golden reference;
  Loaded loaded = Loaded::bundled(DType::f32, GetParam());
  const auto vocab = static_cast<size_t>(loaded.config.vocab_size);
  for (size_t prompt = 0; prompt < 8; ++prompt) {
    const std::vector<float> logits = loaded.logits(reference.ids(prompt), Loaded::kTokens);
    expect_near(std::span(logits).last(vocab), reference.tensor(fmt::format("prompt{}.last_logits", prompt)),
                fmt::format("prompt {}", prompt));
    const std::vector<float> all = reference.tensor(fmt::format("prompt{}.logits", prompt));
    if (!all.empty()) expect_near(logits, all, fmt::format("all logits of prompt {}", prompt));
  }
}

}  // namespace
}  // namespace chorale::model
