// Texts of special tokens that clients write, kept apart from those that a chat template writes
// (--escape-special-tokens): the former are text as any other, the latter control tokens.
//
//   messages = texts.escape(...)                  // before the template is rendered
//   for (part : texts.split(prompt)) ...          // and afterwards
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "server/wire/json_body.h"
#include "text/tokenizer.h"

namespace chorale::server {

// Immutable, and so thread-safe.
class SpecialTexts {
 public:
  explicit SpecialTexts(const text::Tokenizer& tokenizer);

  // The text with a mark in place of each special token's text. It is as the client has written it for
  // split(), and passes a template unchanged.
  std::string escape(std::string_view text) const;
  // Of all strings in the value, and of names of members, which templates write, too.
  void escape_strings(Json& value) const;

  struct Part {
    std::string_view text;
    bool is_plain = false;  // a client's: no control token, whatever it reads
  };
  // The parts of an escaped text, in order, without the marks. Views of the text and of this.
  std::vector<Part> split(std::string_view escaped) const;

 private:
  void escape_names(Json::object_t& object) const;

  std::vector<std::string> texts_;  // the mark's own first; of two where one begins the other, the longer
};

}  // namespace chorale::server
