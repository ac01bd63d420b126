#include "server/wire/json_parts.h"

#include <string>

#include <gtest/gtest.h>

namespace chorale::server {
namespace {

std::string all(JsonParts parts, size_t bytes) {
  std::string text;
  for (bool more = true; more;) {
    std::string part;
    more = parts.append(part, bytes);
    text += part;
  }
  return text;
}

TEST(JsonParts, AreTheTextOfTheWhole) {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{1000}}) {
    Json whole = {{"a", 1}, {"b", Json::array({1, 2})}, {"empty", Json::object()}, {"none", Json::array()}};
    Json list = Json::array();
    for (size_t i = 0; i < size; ++i) list.push_back({{"i", i}});
    LongLists lists;
    Json document = whole;
    for (Json* one : {&whole, &document}) {
      const auto place = [&] {
        return one == &whole ? list : lists.add(size, [](size_t i) { return Json{{"i", i}}; });
      };
      (*one)["first"] = place();
      (*one)["text \"quoted\""] = "x\n";
      (*one)["inner"] = Json::array({Json::object({{"deep", place()}, {"after", nullptr}})});
    }
    for (const size_t bytes : {size_t{1}, size_t{100}, size_t{1} << 20}) {
      EXPECT_EQ(all(JsonParts(document, lists), bytes), to_text(whole)) << size << " in parts of " << bytes;
    }
  }
}

TEST(JsonParts, MakesNoMoreThanIsAskedFor) {
  size_t made = 0;
  LongLists lists;
  const Json document = {{"list", lists.add(1000, [&](size_t i) {
                            ++made;
                            return Json(i);
                          })}};
  JsonParts parts(document, std::move(lists));
  std::string out;
  EXPECT_TRUE(parts.append(out, 100));
  EXPECT_GE(out.size(), 100U);
  EXPECT_LT(made, 60U);
}

}  // namespace
}  // namespace chorale::server
