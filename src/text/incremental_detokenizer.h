// Turns a growing sequence of token ids into text, piece by piece, holding back bytes that do not yet form
// whole UTF-8 characters. The pieces concatenated equal Tokenizer::decode of all ids, where none is kept.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace chorale::text {

class IncrementalDetokenizer {
 public:
  // The tokenizer must outlive this object. `kept` are special tokens that are not skipped.
  IncrementalDetokenizer(const Tokenizer& tokenizer, bool skip_special_tokens,
                         std::vector<int32_t> kept = {});

  // The text that is complete after this token; often empty in the middle of a character.
  std::string push(int32_t token_id);
  // What was held back, incomplete characters as U+FFFD. Call once, at the end.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  std::vector<int32_t> kept_;
  std::string pending_;  // bytes of an incomplete character
};

}  // namespace chorale::text
