#include "io/linear_source.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include <gtest/gtest.h>

#include "made_linear.h"

namespace chorale::io {
namespace {

constexpr std::string_view kName = "x.weight";

LinearSource open(const Checkpoint& checkpoint, const MadeLinear& made) {
  const std::vector<int64_t> shape = made.shape();
  return LinearSource::open(checkpoint, made.config, kName, shape);
}

std::vector<float> read_floats(const LinearSource& source, int64_t row, int64_t column, int64_t count) {
  std::vector<float> out(static_cast<size_t>(count));
  EXPECT_EQ(source.read(row, column, count, std::as_writable_bytes(std::span(out)).data(), DType::f32), 0);
  return out;
}

std::vector<bf16> read_bf16(const LinearSource& source, int64_t row, int64_t column, int64_t count) {
  std::vector<bf16> out(static_cast<size_t>(count));
  EXPECT_EQ(source.read(row, column, count, std::as_writable_bytes(std::span(out)).data(), DType::bf16), 0);
  return out;
}

// Whole rows, then random parts of rows, in both dtypes.
void expect_values(const LinearSource& source, const MadeLinear& made, Random& random) {
  ASSERT_EQ(source.rows(), made.n);
  ASSERT_EQ(source.columns(), made.k);
  const auto expect_part = [&](int64_t row, int64_t column, int64_t count) {
    const std::vector<float> floats = read_floats(source, row, column, count);
    const std::vector<bf16> halves = read_bf16(source, row, column, count);
    for (int64_t i = 0; i < count; ++i) {
      const float expected = made.values[made.at(row, column + i)];
      ASSERT_EQ(floats[static_cast<size_t>(i)], expected) << row << ", " << column + i;
      ASSERT_EQ(halves[static_cast<size_t>(i)], to_bf16(expected)) << row << ", " << column + i;
    }
  };
  for (int64_t row = 0; row < made.n; ++row) expect_part(row, 0, made.k);
  for (int i = 0; i < 200; ++i) {
    const int64_t column = below(random, made.k);
    expect_part(below(random, made.n), column, below(random, made.k - column + 1));
  }
}

void expect_int4(const LinearSource& source, const MadeLinear& made, Random& random) {
  ASSERT_TRUE(source.is_int4());
  for (int64_t row = 0; row < made.n; ++row) {
    for (int64_t column = 0; column < made.k; ++column) {
      ASSERT_EQ(source.scale(row, column), made.scales[made.at(row, column)]);
      ASSERT_EQ(source.zero(row, column), made.zeros[made.at(row, column)]);
    }
    const int64_t column = below(random, made.k);
    std::vector<uint8_t> q(static_cast<size_t>(below(random, made.k - column + 1)));
    source.read_values(row, column, std::ssize(q), q.data());
    for (size_t i = 0; i < q.size(); ++i) ASSERT_EQ(q[i], made.q[made.at(row, column) + i]);
  }
}

TEST(LinearSource, ReadsPlainWeights) {
  Random random(1);
  MadeLinear made{.n = 5, .k = 700};
  std::vector<f16> halves;
  for (int64_t i = 0; i < made.n * made.k; ++i) {
    halves.push_back(to_f16(std::uniform_real_distribution<float>(-1, 1)(random)));
    made.values.push_back(to_float(halves.back()));
  }
  std::vector<bf16> narrow;
  for (const float value : made.values) narrow.push_back(to_bf16(value));
  const std::vector<std::pair<const char*, MadeTensor>> forms = {
      {"f16", made_tensor(DType::f16, made.shape(), halves)},
      {"f32", made_tensor(DType::f32, made.shape(), made.values)},
      {"bf16", made_tensor(DType::bf16, made.shape(), narrow)}};
  for (const auto& [what, tensor] : forms) {
    SCOPED_TRACE(what);
    if (tensor.dtype == DType::bf16)
      for (float& value : made.values) value = to_float(to_bf16(value));
    made.tensors = {{std::string(kName), tensor}};
    const TemporaryFolder folder;
    const Checkpoint checkpoint = made.open(folder);
    const LinearSource source = open(checkpoint, made);
    expect_values(source, made, random);
    EXPECT_FALSE(source.is_int4());
    EXPECT_EQ(source.bytes(), tensor.bytes.size());
  }
}

TEST(LinearSource, ReadsVectorsAsOneRow) {
  MadeLinear made{.n = 1, .k = 3};
  made.tensors["x.weight"] = made_tensor(DType::f32, {3}, std::vector<float>{1, 2, 3});
  const TemporaryFolder folder;
  const Checkpoint checkpoint = made.open(folder);
  const LinearSource source = LinearSource::open(checkpoint, made.config, kName, std::array<int64_t, 1>{3});
  EXPECT_EQ(source.rows(), 1);
  EXPECT_EQ(read_floats(source, 0, 1, 2), (std::vector<float>{2, 3}));
}

TEST(LinearSource, ReadsFp8) {
  Random random(2);
  for (int i = 0; i < 20; ++i) {
    const int64_t block = int64_t{1} << below(random, 8);
    const MadeLinear made =
        make_fp8(random, 1 + below(random, 40), 1 + below(random, 600), block, 1 + below(random, 150));
    SCOPED_TRACE(fmt::format("[{}, {}] in {} x {}", made.n, made.k, block, made.config.block_columns));
    const TemporaryFolder folder;
    const Checkpoint checkpoint = made.open(folder);
    const LinearSource source = open(checkpoint, made);
    expect_values(source, made, random);
    EXPECT_FALSE(source.is_int4());
    EXPECT_EQ(source.bytes(), checkpoint.total_bytes());
  }
}

TEST(LinearSource, ReadsGptq) {
  Random random(3);
  constexpr std::array<int64_t, 5> kGroups = {32, 64, 128, -1, 20};
  for (int i = 0; i < 40; ++i) {
    const GptqOptions options = {.group_size = kGroups[static_cast<size_t>(i) % kGroups.size()],
                                 .v2 = random() % 2 == 0,
                                 .shuffled = random() % 2 == 0};
    const MadeLinear made = make_gptq(random, 8 + 8 * below(random, 5), 8 + 8 * below(random, 80), options);
    SCOPED_TRACE(fmt::format("[{}, {}] group {} v2 {} shuffled {}", made.n, made.k, options.group_size,
                             options.v2, options.shuffled));
    const TemporaryFolder folder;
    const Checkpoint checkpoint = made.open(folder);
    const LinearSource source = open(checkpoint, made);
    expect_values(source, made, random);
    expect_int4(source, made, random);
    EXPECT_EQ(source.group_size(), options.group_size < 0 ? made.k : options.group_size);
    EXPECT_EQ(source.bytes(), checkpoint.total_bytes());
    source.release();
    EXPECT_EQ(read_floats(source, 0, 0, 1)[0], made.values[0]);
  }
}

TEST(LinearSource, SaysWhetherGroupsAreInOrder) {
  Random random(4);
  MadeLinear made = make_gptq(random, 8, 128, {.group_size = 32});
  const auto in_order = [&] {
    const TemporaryFolder folder;
    const Checkpoint checkpoint = made.open(folder);
    return open(checkpoint, made).groups_in_order();
  };
  EXPECT_TRUE(in_order());
  made.tensors.erase("x.g_idx");
  EXPECT_TRUE(in_order());
  made = make_gptq(random, 8, 128, {.group_size = 32, .shuffled = true});
  EXPECT_FALSE(in_order());
  made = make_awq(random, 8, 128, 32);
  EXPECT_TRUE(in_order());
}

TEST(LinearSource, ReadsAwq) {
  Random random(5);
  constexpr std::array<int64_t, 3> kGroups = {32, 128, -1};
  for (int i = 0; i < 20; ++i) {
    const int64_t group_size = kGroups[static_cast<size_t>(i) % kGroups.size()];
    const int64_t k = (1 + below(random, 5)) * (group_size < 0 ? 31 : group_size);
    const MadeLinear made = make_awq(random, 8 + 8 * below(random, 5), k, group_size);
    SCOPED_TRACE(fmt::format("[{}, {}] group {}", made.n, made.k, group_size));
    const TemporaryFolder folder;
    const Checkpoint checkpoint = made.open(folder);
    const LinearSource source = open(checkpoint, made);
    expect_values(source, made, random);
    expect_int4(source, made, random);
    EXPECT_EQ(source.bytes(), checkpoint.total_bytes());
  }
}

TEST(LinearSource, AwqWordsAreInterleaved) {
  // Nibbles 0 to 7 from the lowest bits on, written out.
  MadeLinear made{.n = 8, .k = 1};
  made.config = {.method = QuantizationConfig::Method::awq, .bits = 4, .group_size = 1};
  made.tensors["x.qweight"] = made_tensor(DType::i32, {1, 1}, std::vector<uint32_t>{0x76543210});
  made.tensors["x.qzeros"] = made_tensor(DType::i32, {1, 1}, std::vector<uint32_t>{0});
  made.tensors["x.scales"] = made_tensor(DType::f32, {1, 8}, std::vector<float>(8, 1.0F));
  const TemporaryFolder folder;
  const Checkpoint checkpoint = made.open(folder);
  const LinearSource source = open(checkpoint, made);
  const std::array<float, 8> expected = {0, 4, 1, 5, 2, 6, 3, 7};
  for (int64_t row = 0; row < 8; ++row)
    EXPECT_EQ(read_floats(source, row, 0, 1)[0], expected[static_cast<size_t>(row)]);
}

TEST(LinearSource, QuantizedCheckpointsMayHavePlainWeights) {
  Random random(6);
  for (MadeLinear made :
       {make_fp8(random, 8, 8, 8, 8), make_gptq(random, 8, 32, {}), make_awq(random, 8, 32, 32)}) {
    made.tensors = {{std::string(kName), made_tensor(DType::f32, made.shape(), made.values)}};
    const TemporaryFolder folder;
    const Checkpoint checkpoint = made.open(folder);
    const LinearSource source = open(checkpoint, made);
    EXPECT_FALSE(source.is_int4());
    expect_values(source, made, random);
  }
}

TEST(LinearSource, CountsNan) {
  Random random(7);
  MadeLinear made = make_fp8(random, 4, 600, 128, 128);
  std::vector<std::byte>& weight = made.tensors["x.weight"].bytes;
  weight[600 + 3] = std::byte{0x7F};
  weight[600 + 599] = std::byte{0xFF};
  const TemporaryFolder folder;
  const Checkpoint checkpoint = made.open(folder);
  const LinearSource source = open(checkpoint, made);
  std::vector<std::byte> out(600 * 4);
  for (const DType dtype : {DType::bf16, DType::f32}) {
    EXPECT_EQ(source.read(0, 0, 600, out.data(), dtype), 0);
    EXPECT_EQ(source.read(1, 0, 600, out.data(), dtype), 2);
    EXPECT_EQ(source.read(1, 4, 595, out.data(), dtype), 0);
  }

  MadeLinear int4 = make_gptq(random, 8, 64, {.group_size = 32});
  const uint16_t nan = 0x7E01;
  std::memcpy(int4.tensors["x.scales"].bytes.data() + 8 * 2, &nan, 2);  // group 1, output 0
  const TemporaryFolder other;
  const Checkpoint second = int4.open(other);
  EXPECT_EQ(open(second, int4).read(0, 0, 64, out.data(), DType::bf16), 32);
  EXPECT_EQ(open(second, int4).read(1, 0, 64, out.data(), DType::f32), 0);
}

TEST(LinearSource, FindsTensorsInAnyFile) {
  Random random(8);
  const MadeLinear made = make_awq(random, 16, 64, 32);
  const TemporaryFolder folder;
  for (const auto& [name, t] : made.tensors) {
    const TensorToWrite tensor{name, t.dtype, t.shape, t.bytes};
    write_safetensors(folder / (name + ".safetensors"), {&tensor, 1});
  }
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  const LinearSource source = open(checkpoint, made);
  expect_values(source, made, random);
  source.release();
  EXPECT_EQ(source.tensors().weight->file, "x.qweight.safetensors");
}

TEST(LinearSource, CountsTheModelsParameters) {
  Random random(9);
  for (const MadeLinear& made :
       {make_fp8(random, 24, 40, 16, 16), make_gptq(random, 8, 72, {}), make_awq(random, 16, 64, 32)}) {
    const TemporaryFolder folder;
    const Checkpoint checkpoint = made.open(folder);
    int64_t parameters = 0;
    for (const TensorEntry& tensor : checkpoint.tensors()) parameters += parameters_of(tensor, made.config);
    EXPECT_EQ(parameters, made.n * made.k);
  }
}

TEST(LinearSource, KnowsBiasesOfZeros) {
  Random random(10);
  MadeLinear made = make_gptq(random, 8, 32, {});
  made.tensors["x.bias"] = made_tensor(DType::f16, {8}, std::vector<uint16_t>(8));
  made.tensors["y.bias"] = made.tensors["x.bias"];
  const auto is_unused = [&](std::string_view name) {
    const TemporaryFolder folder;
    const Checkpoint checkpoint = made.open(folder);
    return is_unused_bias(checkpoint, made.config, checkpoint.at(name));
  };
  EXPECT_TRUE(is_unused("x.bias"));
  EXPECT_FALSE(is_unused("y.bias"));  // of a plain matrix
  EXPECT_FALSE(is_unused("x.scales"));
  made.tensors["x.bias"].bytes.back() = std::byte{1};
  EXPECT_FALSE(is_unused("x.bias"));
}

// What is done to the tensors, and what the message must have.
struct Damage {
  std::string what;
  std::function<void(MadeLinear&)> damage;
  std::vector<std::string> expected;
};

void expect_refused(const std::function<MadeLinear(Random&)>& make, const std::vector<Damage>& cases) {
  for (const Damage& bad : cases) {
    SCOPED_TRACE(bad.what);
    Random random(11);
    MadeLinear made = make(random);
    bad.damage(made);
    const TemporaryFolder folder;
    const Checkpoint checkpoint = made.open(folder);
    const std::string message = error_of([&] { open(checkpoint, made); });
    EXPECT_TRUE(message.starts_with(folder.path().string() + ": tensor \"x.")) << message;
    for (const std::string& part : bad.expected) EXPECT_NE(message.find(part), std::string::npos) << message;
  }
}

auto drop(const char* name) {
  return [name](MadeLinear& made) { made.tensors.erase(name); };
}

auto retype(const char* name, DType dtype) {
  return [name, dtype](MadeLinear& made) { made.tensors[name].dtype = dtype; };
}

auto reshape(const char* name, std::vector<int64_t> shape) {
  return [name, shape](MadeLinear& made) {
    MadeTensor& tensor = made.tensors[name];
    tensor.shape = shape;
    int64_t elements = 1;
    for (const int64_t size : shape) elements *= size;
    tensor.bytes.resize(static_cast<size_t>(elements) * size_of(tensor.dtype));
  };
}

auto set_group(int64_t input, int32_t group) {
  return [input, group](MadeLinear& made) {
    std::memcpy(made.tensors["x.g_idx"].bytes.data() + input * 4, &group, 4);
  };
}

void leave_plain(MadeLinear& made) {
  made.config.modules_to_not_convert = {"x"};
}

TEST(LinearSource, RefusesBadPlainWeights) {
  const auto make = [](Random&) {
    MadeLinear made{.n = 4, .k = 2};
    made.tensors["x.weight"] = made_tensor(DType::f32, {4, 2}, std::vector<float>(8));
    made.tensors["other"] = made.tensors["x.weight"];
    return made;
  };
  expect_refused(
      make, {{"missing", drop("x.weight"), {"\"x.weight\": expected with shape [4, 2], found none"}},
             {"shape", reshape("x.weight", {2, 4}), {"model.safetensors", "[4, 2]", "found [2, 4]"}},
             {"dtype", retype("x.weight", DType::i32), {"bfloat16, float16 or float32", "found int32"}}});
  // Without quantization_config nothing is quantized.
  Random random(12);
  for (MadeLinear made : {make_fp8(random, 8, 8, 8, 8), make_gptq(random, 8, 32, {})}) {
    made.config = {};
    const TemporaryFolder folder;
    const Checkpoint checkpoint = made.open(folder);
    EXPECT_NE(error_of([&] { open(checkpoint, made); }).find("tensor \"x.weight\""), std::string::npos);
  }
}

TEST(LinearSource, RefusesBadFp8) {
  const auto make = [](Random& random) { return make_fp8(random, 20, 30, 16, 16); };
  const auto vector = [](MadeLinear& made) { made.tensors["x.weight"].shape = {600}; };
  expect_refused(
      make,
      {{"no scales",
        drop("x.weight_scale_inv"),
        {"\"x.weight_scale_inv\": expected with shape [2, 2], found none"}},
       {"no weight", drop("x.weight"), {"\"x.weight\": expected with shape [20, 30], found none"}},
       {"weight shape",
        reshape("x.weight", {30, 20}),
        {"\"x.weight\" in model.safetensors", "[20, 30]", "[30, 20]"}},
       {"vector", vector, {"\"x.weight\"", "found [600]"}},
       {"scale shape",
        reshape("x.weight_scale_inv", {2, 1}),
        {"\"x.weight_scale_inv\"", "[2, 2]", "found [2, 1]"}},
       {"scale dtype", retype("x.weight_scale_inv", DType::i16), {"\"x.weight_scale_inv\"", "found int16"}},
       {"weight dtype", retype("x.weight", DType::u8), {"expected float8_e4m3, found uint8"}},
       {"named as plain", leave_plain, {"modules_to_not_convert", "a quantized one"}}});
}

TEST(LinearSource, RefusesBadGptq) {
  const auto make = [](Random& random) { return make_gptq(random, 16, 80, {.group_size = 32}); };
  const auto needs_order = [](MadeLinear& made) {
    made.config.desc_act = true;
    made.tensors.erase("x.g_idx");
  };
  const auto odd = [](MadeLinear& made) { made.n = 12; };
  const auto odd_inputs = [](MadeLinear& made) { made.k = 82; };
  expect_refused(
      make,
      {{"no qweight", drop("x.qweight"), {"\"x.qweight\": expected with shape [10, 16], found none"}},
       {"no qzeros", drop("x.qzeros"), {"\"x.qzeros\": expected with shape [3, 2], found none"}},
       {"no scales", drop("x.scales"), {"\"x.scales\": expected with shape [3, 16], found none"}},
       {"no g_idx", needs_order, {"\"x.g_idx\": expected with shape [80], found none"}},
       {"qweight shape", reshape("x.qweight", {80, 2}), {"\"x.qweight\"", "[10, 16]", "found [80, 2]"}},
       {"qzeros shape", reshape("x.qzeros", {2, 2}), {"\"x.qzeros\"", "[3, 2]", "found [2, 2]"}},
       {"scales shape", reshape("x.scales", {16, 3}), {"\"x.scales\"", "found [16, 3]"}},
       {"g_idx shape", reshape("x.g_idx", {79}), {"\"x.g_idx\"", "[80]", "found [79]"}},
       {"qweight dtype", retype("x.qweight", DType::f32), {"\"x.qweight\"", "expected int32, found float32"}},
       {"qzeros dtype", retype("x.qzeros", DType::u32), {"\"x.qzeros\"", "found uint32"}},
       {"scales dtype", retype("x.scales", DType::i16), {"\"x.scales\"", "found int16"}},
       {"g_idx dtype", retype("x.g_idx", DType::f32), {"\"x.g_idx\"", "found float32"}},
       {"group too large", set_group(79, 3), {"\"x.g_idx\"", "groups from 0 to 2", "group 3 of input 79"}},
       {"group negative", set_group(0, -1), {"group -1 of input 0"}},
       {"outputs", odd, {"multiples of 8", "[12, 80]"}},
       {"inputs", odd_inputs, {"multiples of 8", "[16, 82]"}},
       {"named as plain", leave_plain, {"modules_to_not_convert"}}});
}

TEST(LinearSource, RefusesBadAwq) {
  const auto make = [](Random& random) { return make_awq(random, 16, 64, 32); };
  const auto part_of_a_group = [](MadeLinear& made) { made.k = 65; };
  expect_refused(
      make, {{"no qweight", drop("x.qweight"), {"\"x.qweight\": expected with shape [64, 2], found none"}},
             {"no qzeros", drop("x.qzeros"), {"\"x.qzeros\": expected with shape [2, 2], found none"}},
             {"no scales", drop("x.scales"), {"\"x.scales\": expected with shape [2, 16], found none"}},
             {"qweight as gptq's", reshape("x.qweight", {8, 16}), {"[64, 2]", "found [8, 16]"}},
             {"groups", part_of_a_group, {"whole groups of 32", "found 65 inputs"}}});
}

TEST(LinearSource, RefusesQuantizedVectors) {
  Random random(13);
  const MadeLinear made = make_gptq(random, 8, 32, {});
  const TemporaryFolder folder;
  const Checkpoint checkpoint = made.open(folder);
  const std::string message =
      error_of([&] { LinearSource::open(checkpoint, made.config, kName, std::array<int64_t, 1>{32}); });
  EXPECT_NE(message.find("vector"), std::string::npos) << message;
}

}  // namespace
}  // namespace chorale::io
