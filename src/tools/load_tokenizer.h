// The tokenizer that belongs to a model, checked against it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "io/model_config.h"
#include "text/tokenizer.h"

namespace chorale::tools {

// Loads `directory`/tokenizer.json. Throws Error when it cannot be used or has more tokens than the model's
// embedding has rows.
text::Tokenizer load_tokenizer(const std::filesystem::path& directory, const io::ModelConfig& config);

// As load_tokenizer, but where the folder has no tokenizer.json gives the stand-in, for models with random
// weights.
text::Tokenizer load_tokenizer_or_stand_in(const std::filesystem::path& directory,
                                           const io::ModelConfig& config);

// The text of a tokenizer.json with exactly vocab_size tokens (at least 1): the single bytes first, then the
// words " 256", " 257", ...
std::string stand_in_tokenizer_json(int64_t vocab_size);

// Whether the text is UTF-8 without surrogates and overlong forms.
bool is_valid_utf8(std::string_view text);

}  // namespace chorale::tools
