// JSON whose long lists are made element by element as its text is written, so that it is never there as a
// whole: neither as a tree, which takes a dozen times its text, nor as text.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "server/wire/json_body.h"

namespace chorale::server {

// The long lists of one document. Not thread-safe.
class LongLists {
 public:
  using Element = std::function<Json(size_t)>;

  // A value that stands in the document for the list of element(0), element(1), ...
  Json add(size_t size, Element element);

 private:
  friend class JsonParts;
  struct List {
    size_t size = 0;
    Element element;
  };
  std::vector<List> lists_;
};

// The list of element(0), element(1), ...: one of `lists`, or made at once where that is nullptr.
Json list_of(size_t size, const LongLists::Element& element, LongLists* lists);

// Not thread-safe.
class JsonParts {
 public:
  // What the elements refer to must outlive this.
  JsonParts(const Json& document, LongLists lists);

  // Appends to `out` until it has at least that many bytes, or all is told; whether there is more. Throws
  // what an element throws.
  bool append(std::string& out, size_t bytes);

 private:
  // A text, and then a list.
  struct Section {
    std::string text;
    LongLists::List list;
  };

  void read(const Json& value);
  void put(std::string_view text) { sections_.back().text += text; }

  LongLists lists_;
  std::vector<Section> sections_{1};
  size_t section_ = 0;
  size_t next_ = 0;        // element of its list
  bool has_text_ = false;  // the section's has been told
};

}  // namespace chorale::server
