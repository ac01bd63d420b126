#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/checkpoint.h"
#include "test_files.h"

namespace chorale::io {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

SafetensorsHeader parse(std::string_view file) {
  return parse_safetensors_header(bytes_of(file), "dir/w.safetensors");
}

std::string tensor(std::string_view name, std::string_view dtype, std::string_view shape,
                   std::string_view offsets) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":{},"data_offsets":{}}})", name, dtype, shape, offsets);
}

std::string object(const std::vector<std::string>& members) {
  return fmt::format("{{{}}}", fmt::join(members, ","));
}

TEST(SafetensorsHeader, ReadsTensorsInTheOrderOfTheirOffsets) {
  const std::string header =
      fmt::format(R"({{"__metadata__":{{"format":"pt","":"x"}},{},{}}})",
                  tensor("b", "BF16", "[2,3]", "[8,20]"), tensor("a", "F32", "[2]", "[0,8]"));
  const SafetensorsHeader parsed = parse(safetensors(header, 20));
  ASSERT_EQ(parsed.tensors.size(), 2U);
  EXPECT_EQ(parsed.tensors[0].name, "a");
  EXPECT_EQ(parsed.tensors[0].dtype, DType::f32);
  EXPECT_THAT(parsed.tensors[0].shape, ElementsAre(2));
  EXPECT_EQ(parsed.tensors[1].name, "b");
  EXPECT_EQ(parsed.tensors[1].dtype, DType::bf16);
  EXPECT_THAT(parsed.tensors[1].shape, ElementsAre(2, 3));
  EXPECT_EQ(parsed.tensors[1].begin, 8U);
  EXPECT_EQ(parsed.tensors[1].end, 20U);
  EXPECT_EQ(parsed.data_start, 8 + header.size());
  EXPECT_EQ(parsed.metadata, (std::map<std::string, std::string>{{"format", "pt"}, {"", "x"}}));
}

TEST(SafetensorsHeader, SaysWhatTextStandsInItsPlace) {
  EXPECT_THAT(
      error_of([] { parse("Something went wrong.\nTry again."); }),
      HasSubstr("expected a safetensors file, found a text that begins with \"Something went wrong.\""));
  EXPECT_THAT(error_of([] { parse("{\"a\": 12345678}"); }), HasSubstr("found a text that begins with"));
  EXPECT_THAT(error_of([] { parse("\x01\x02zzzzzzzzzzzz"); }), HasSubstr("expected a header length"));
}

struct Good {
  std::string header;
  size_t data_bytes;
  size_t tensors;
};

TEST(SafetensorsHeader, AcceptsWhatTheFormatAllows) {
  const Good cases[] = {
      {"{}", 0, 0},
      {R"({"__metadata__":{}})", 0, 0},
      {object({tensor("scalar", "F32", "[]", "[0,4]")}), 4, 1},
      {object({tensor("empty", "F32", "[0]", "[0,0]")}), 0, 1},
      {object({tensor("padded", "U8", "[1]", "[0,1]")}) + "   \n\t  ", 1, 1},
      {object({tensor("", "U8", "[1]", "[0,1]")}), 1, 1},
      // Empty tensors may stand at any boundary, also several at one.
      {object({tensor("z", "F32", "[4,0]", "[4,4]"), tensor("y", "F32", "[1]", "[0,4]"),
               tensor("x", "I64", "[0]", "[4,4]"), tensor("w", "F32", "[0,9]", "[0,0]"),
               tensor("v", "F64", "[1]", "[4,12]")}),
       12, 5},
  };
  for (const Good& good : cases) {
    EXPECT_EQ(parse(safetensors(good.header, good.data_bytes)).tensors.size(), good.tensors) << good.header;
  }
}

TEST(SafetensorsHeader, KnowsEveryElementType) {
  for (int i = 0; i <= static_cast<int>(DType::boolean); ++i) {
    const auto dtype = static_cast<DType>(i);
    const size_t bytes = 3 * size_of(dtype);
    const std::string header =
        object({tensor("t", safetensors_name(dtype), "[3]", fmt::format("[0,{}]", bytes))});
    EXPECT_EQ(parse(safetensors(header, bytes)).tensors.at(0).dtype, dtype);
  }
}

struct BadFile {
  std::string what;
  std::string contents;
  std::vector<std::string> expected;  // all must be in the message
};

std::string with_length(uint64_t length, std::string_view rest) {
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + std::string(rest);
}

std::vector<BadFile> bad_containers() {
  return {
      {"empty", "", {"empty file"}},
      {"shorter than its length field", "1234567", {"at least 8 bytes", "found 7"}},
      {"length beyond the file", with_length(3, "{}"), {"2 bytes follow", "found 3"}},
      {"length beyond the file, far", with_length(99'999'999, "{}"), {"within the file", "found 99999999"}},
      {"over 100 MB", with_length(100'000'001, "{}"), {"at most 100000000 bytes", "found 100000001"}},
      {"length that would wrap", with_length(~uint64_t{0}, "{}"), {"found 18446744073709551615"}},
      {"no header", with_length(0, ""), {"invalid JSON", "empty header"}},
      {"leading space", safetensors(" {}", 0), {"begin with", "found \" \""}},
      {"an array", safetensors("[]", 0), {"begin with", "found \"[\""}},
      {"cut JSON", safetensors(R"({"t":{"dtype":"F32)", 0), {"tensor \"t\"", "invalid JSON at byte"}},
      {"text after the header", safetensors("{} x", 0), {"invalid JSON at byte 4"}},
      {"NUL after the header",
       safetensors(std::string_view("{}\0 ", 4), 0),
       {"invalid JSON", "NUL byte at byte 2"}},
      {"invalid UTF-8", safetensors("{\"\xff\":{}}", 0), {"invalid JSON", "UTF-8"}},
      {"data without tensors",
       safetensors("{}", 5),
       {"expected 0 bytes of data, found 5", "5 trailing bytes"}},
  };
}

std::vector<BadFile> bad_structure() {
  const std::string good = tensor("t", "U8", "[1]", "[0,1]");
  const auto with = [](std::string_view body) { return safetensors(fmt::format("{{{}}}", body), 1); };
  return {
      {"deep array",
       safetensors(R"({"t":)" + std::string(5'000'000, '['), 0),
       {"tensor \"t\"", "found an array"}},
      {"deep objects", with(R"("t":{"shape":{"a":{"b":{}}}})"), {"\"t\"", "\"shape\"", "found an object"}},
      {"array in shape", with(R"("t":{"shape":[[1]]})"), {"\"t\"", "\"shape\"", "found an array"}},
      {"object in offsets", with(R"("t":{"data_offsets":[{}]})"), {"\"t\"", "\"data_offsets\"", "an object"}},
      {"tensor is null", with(R"("t":null)"), {"\"t\"", "expected an object, found null"}},
      {"tensor is a string", with(R"("t":"x")"), {"\"t\"", "expected an object, found \"x\""}},
      {"tensor is a number", with(R"("t":7)"), {"\"t\"", "expected an object, found 7"}},
      {"tensor is true", with(R"("t":true)"), {"\"t\"", "expected an object, found true"}},
      {"no dtype", with(R"("t":{"shape":[1],"data_offsets":[0,1]})"), {"\"t\"", "\"dtype\"", "found none"}},
      {"no shape", with(R"("t":{"dtype":"U8","data_offsets":[0,1]})"), {"\"t\"", "\"shape\"", "found none"}},
      {"no offsets", with(R"("t":{"dtype":"U8","shape":[1]})"), {"\"t\"", "\"data_offsets\"", "found none"}},
      {"extra field", with(R"("t":{"dtype":"U8","strides":[1]})"), {"\"t\"", "found \"strides\""}},
      {"empty field name", with(R"("t":{"":"U8"})"), {"\"t\"", "found \"\""}},
      {"duplicate tensor", with(good + "," + good), {"\"t\"", "duplicate key"}},
      {"duplicate dtype",
       with(R"("t":{"dtype":"U8","dtype":"U8"})"),
       {"\"t\"", "\"dtype\"", "duplicate key"}},
      {"duplicate metadata",
       with(R"("__metadata__":{},"__metadata__":{})"),
       {"__metadata__", "duplicate key"}},
      {"duplicate in metadata", with(R"("__metadata__":{"a":"1","a":"1"})"), {"key \"a\"", "duplicate key"}},
      {"metadata is an array", with(R"("__metadata__":[])"), {"__metadata__", "an object, found an array"}},
      {"metadata is null", with(R"("__metadata__":null)"), {"__metadata__", "an object, found null"}},
      {"metadata of numbers", with(R"("__metadata__":{"a":1})"), {"key \"a\"", "expected a string, found 1"}},
      {"metadata nested", with(R"("__metadata__":{"a":{}})"), {"key \"a\"", "a string, found an object"}},
  };
}

std::vector<BadFile> bad_fields() {
  const auto one = [](std::string_view dtype, std::string_view shape, std::string_view offsets,
                      size_t data_bytes) {
    return safetensors(object({tensor("t", dtype, shape, offsets)}), data_bytes);
  };
  std::string many = "[1";
  for (int i = 0; i < 64; ++i) many += ",1";
  return {
      {"unknown dtype",
       one("F8_E5M2", "[1]", "[0,1]", 1),
       {"\"t\"", "\"dtype\"", "BF16", "found \"F8_E5M2\""}},
      {"dtype in lower case", one("f32", "[1]", "[0,4]", 4), {"\"t\"", "\"dtype\"", "found \"f32\""}},
      {"dtype a number", safetensors(R"({"t":{"dtype":3}})", 0), {"\"dtype\"", "expected a string, found 3"}},
      {"shape a number", one("U8", "1", "[0,1]", 1), {"\"t\"", "\"shape\"", "found 1"}},
      {"negative dimension", one("U8", "[-1]", "[0,1]", 1), {"\"t\"", "\"shape\"", "found -1"}},
      {"float dimension", one("U8", "[1.0]", "[0,1]", 1), {"\"t\"", "\"shape\"", "found \"1.0\""}},
      {"string dimension", one("U8", "[\"1\"]", "[0,1]", 1), {"\"t\"", "\"shape\"", "found \"1\""}},
      {"dimension over 2^63",
       one("U8", "[9223372036854775808]", "[0,1]", 1),
       {"\"shape\"", "9223372036854775808"}},
      {"dimension over 2^64",
       one("U8", "[99999999999999999999]", "[0,1]", 1),
       {"\"shape\"", "9999999999999"}},
      {"dimension out of floats", one("U8", "[1e999]", "[0,1]", 1), {"\"t\"", "invalid JSON"}},
      {"too many dimensions", one("U8", many + "]", "[0,1]", 1), {"\"t\"", "at most 64 dimensions"}},
      {"product overflows", one("U8", "[4294967296,4294967296]", "[0,0]", 0), {"\"t\"", "overflows"}},
      {"bytes overflow", one("F32", "[4611686018427387904]", "[0,0]", 0), {"\"t\"", "overflows"}},
      {"one offset",
       one("U8", "[1]", "[0]", 1),
       {"\"t\"", "\"data_offsets\"", "2 integers", "an array of 1"}},
      {"three offsets", one("U8", "[1]", "[0,1,2]", 1), {"\"t\"", "\"data_offsets\"", "2 integers", "more"}},
      {"negative offset", one("U8", "[1]", "[-1,0]", 1), {"\"t\"", "\"data_offsets\"", "found -1"}},
      {"float offset", one("U8", "[1]", "[0,1.5]", 1), {"\"t\"", "\"data_offsets\"", "found \"1.5\""}},
      {"offsets a string", one("U8", "[1]", "\"0\"", 1), {"\"t\"", "\"data_offsets\"", "found \"0\""}},
      {"offsets reversed", one("U8", "[1]", "[1,0]", 1), {"\"t\"", "within the 1 bytes", "[1, 0]"}},
      {"offsets beyond the data", one("U8", "[2]", "[0,2]", 1), {"\"t\"", "within the 1 bytes", "[0, 2]"}},
      {"offsets at 2^64",
       one("U8", "[1]", "[18446744073709551614,18446744073709551615]", 1),
       {"\"t\"", "within"}},
      {"span too long",
       one("F32", "[1]", "[0,8]", 8),
       {"\"t\"", "expected 4 bytes", "[1] of F32", "found 8"}},
      {"span too short", one("F32", "[2]", "[0,4]", 4), {"\"t\"", "expected 8 bytes", "found 4"}},
      {"zero-size with a span", one("F32", "[0]", "[0,4]", 4), {"\"t\"", "expected 0 bytes", "found 4"}},
      {"trailing bytes", one("U8", "[1]", "[0,1]", 3), {"expected 1 bytes of data, found 3", "2 trailing"}},
      {"gap at the start", one("U8", "[1]", "[1,2]", 2), {"\"t\"", "begin at offset 0, found 1", "gap"}},
      {"gap",
       safetensors(object({tensor("s", "U8", "[1]", "[0,1]"), tensor("t", "U8", "[1]", "[2,3]")}), 3),
       {"\"t\"", "begin at offset 1, found 2", "gap"}},
      {"overlap",
       safetensors(object({tensor("s", "U8", "[2]", "[0,2]"), tensor("t", "U8", "[2]", "[1,3]")}), 3),
       {"\"t\"", "begin at offset 2, found 1", "overlaps"}},
      {"same bytes twice",
       safetensors(object({tensor("s", "U8", "[1]", "[0,1]"), tensor("t", "U8", "[1]", "[0,1]")}), 1),
       {"\"t\"", "overlaps"}},
      {"empty tensor inside another",
       safetensors(object({tensor("s", "U8", "[2]", "[0,2]"), tensor("t", "U8", "[0]", "[1,1]")}), 2),
       {"\"t\"", "overlaps"}},
  };
}

void expect_refused(const std::vector<BadFile>& cases) {
  for (const BadFile& bad : cases) {
    SCOPED_TRACE(bad.what);
    const std::string message = error_of([&] { parse(bad.contents); });
    EXPECT_THAT(message, StartsWith("dir/w.safetensors: "));
    EXPECT_LT(message.size(), 600U);
    for (const std::string& part : bad.expected) EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST(SafetensorsHeader, RefusesBadContainers) {
  expect_refused(bad_containers());
}

TEST(SafetensorsHeader, RefusesBadStructure) {
  expect_refused(bad_structure());
}

TEST(SafetensorsHeader, RefusesBadFields) {
  expect_refused(bad_fields());
}

TEST(SafetensorsHeader, KeepsMessagesShortAndPlain) {
  const std::string name = "a\x1b[31m" + std::string(100'000, 'n');
  const std::string escaped = "a\\u001b[31m" + std::string(100'000, 'n');
  const std::string message =
      error_of([&] { parse(safetensors(fmt::format(R"({{"{}":null}})", escaped), 0)); });
  EXPECT_LT(message.size(), 300U);
  EXPECT_THAT(message, HasSubstr("a\\x1b[31mnnn"));
}

// Whatever the bytes, the parser gives a header or an Error, and a header it gives is sound.
TEST(SafetensorsHeader, SurvivesMutation) {
  const std::string valid = safetensors(
      fmt::format(R"({{"__metadata__":{{"format":"pt"}},{},{},{}}}  )",
                  tensor("first", "BF16", "[2,3]", "[0,12]"), tensor("second", "F32", "[]", "[12,16]"),
                  tensor("third", "I8", "[0,4]", "[16,16]")),
      16);
  std::mt19937 random(20240607);
  const std::string_view tokens = "{}[]\",:0123456789-.eEnul\\\x00\xff ";
  int parsed = 0;
  int refused = 0;
  for (int round = 0; round < 50'000; ++round) {
    std::string file = valid;
    const int edits = 1 + static_cast<int>(random() % 3);
    for (int edit = 0; edit < edits; ++edit) {
      const size_t at = random() % file.size();
      switch (random() % 4) {
        case 0:
          file[at] = static_cast<char>(random());
          break;
        case 1:
          file[at] = tokens[random() % tokens.size()];
          break;
        case 2:
          file.erase(at, 1 + random() % 4);
          break;
        default:
          file.insert(at, 1, tokens[random() % tokens.size()]);
      }
      if (file.empty()) break;
    }
    try {
      const SafetensorsHeader header = parse(file);
      uint64_t position = 0;
      for (const auto& t : header.tensors) {
        ASSERT_EQ(t.begin, position);
        position = t.end;
      }
      ASSERT_EQ(header.data_start + position, file.size());
      ++parsed;
    } catch (const Error& error) {
      ASSERT_THAT(error.what(), StartsWith("dir/w.safetensors: "));
      ++refused;
    }
  }
  EXPECT_GT(parsed, 100);
  EXPECT_GT(refused, 10'000);
}

}  // namespace
}  // namespace chorale::io
