#include "server/wire/json_parts.h"

#include <utility>

namespace chorale::server {
namespace {

// No JSON text has such a value.
Json stand_in(size_t index) {
  return Json::binary(Json::binary_t::container_type(), index);
}

}  // namespace

Json list_of(size_t size, const LongLists::Element& element, LongLists* lists) {
  if (lists != nullptr) return lists->add(size, element);
  Json list = Json::array();
  for (size_t i = 0; i < size; ++i) list.push_back(element(i));
  return list;
}

Json LongLists::add(size_t size, Element element) {
  lists_.push_back({size, std::move(element)});
  return stand_in(lists_.size() - 1);
}

JsonParts::JsonParts(const Json& document, LongLists lists) : lists_(std::move(lists)) {
  read(document);
}

void JsonParts::read(const Json& value) {
  if (value.is_binary()) {
    sections_.back().list = std::move(lists_.lists_.at(value.get_binary().subtype()));
    sections_.emplace_back();
  } else if (!value.empty() && (value.is_object() || (value.is_array() && !value.front().is_number()))) {
    const bool is_object = value.is_object();
    const char* separator = is_object ? "{" : "[";
    for (const auto& [name, one] : value.items()) {
      put(std::exchange(separator, ","));
      if (is_object) put(to_text(name) + ":");
      read(one);
    }
    put(is_object ? "}" : "]");
  } else {
    put(to_text(value));
  }
}

bool JsonParts::append(std::string& out, size_t bytes) {
  for (; section_ < sections_.size(); ++section_, next_ = 0, has_text_ = false) {
    Section& section = sections_[section_];
    const bool is_last = section_ + 1 == sections_.size();
    if (!std::exchange(has_text_, true)) out += std::exchange(section.text, {}) + (is_last ? "" : "[");
    if (is_last) return false;
    for (; next_ < section.list.size; ++next_) {
      if (out.size() >= bytes) return true;
      if (next_ > 0) out += ',';
      out += to_text(section.list.element(next_));
    }
    out += ']';
  }
  return false;
}

}  // namespace chorale::server
