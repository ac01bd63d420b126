#include "server/generation/response_store.h"

#include <string>

#include <gtest/gtest.h>

namespace chorale::server {
namespace {

StoredResponse made(const std::string& holder, const std::string& text) {
  return {holder, {{"text", text}}, Json::array(), Json::array()};
}

std::string text_of(const ResponseStore& store, const std::string& id, const std::string& holder) {
  const auto found = store.find(id, holder);
  return found ? found->response["text"].get<std::string>() : "none";
}

TEST(ResponseStore, HasAResponseForItsHolderAlone) {
  ResponseStore store(10);
  store.put("one", made("alice", "hers"), true);
  for (const char* other : {"bob", "", "alic", "alice2"}) {
    EXPECT_EQ(text_of(store, "one", other), "none");
    EXPECT_FALSE(store.remove("one", other));
  }
  EXPECT_EQ(text_of(store, "one", "alice"), "hers");
  EXPECT_TRUE(store.remove("one", "alice"));
  EXPECT_FALSE(store.remove("one", "alice"));
  EXPECT_EQ(text_of(store, "one", "alice"), "none");
}

TEST(ResponseStore, ForgetsTheOldestOnes) {
  ResponseStore store(2);
  for (const char* id : {"a", "b", "c"}) store.put(id, made("", id), true);
  EXPECT_EQ(text_of(store, "a", ""), "none");
  EXPECT_EQ(text_of(store, "b", ""), "b");
  EXPECT_EQ(text_of(store, "c", ""), "c");
}

TEST(ResponseStore, PutsNothingBackThatWasTakenOut) {
  ResponseStore store(10);
  store.put("one", made("alice", "in progress"), true);
  EXPECT_TRUE(store.remove("one", "alice"));
  store.put("one", made("alice", "done"), false);
  EXPECT_EQ(text_of(store, "one", "alice"), "none");
  ResponseStore none(0);
  none.put("one", made("", "x"), true);
  EXPECT_EQ(text_of(none, "one", ""), "none");
}

}  // namespace
}  // namespace chorale::server
