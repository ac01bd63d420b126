// The tokenizer that belongs to a model, checked against it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "io/model_config.h"
#include "text/tokenizer.h"

namespace chorale::tools {

// Throws Error where one of the tokenizer's files is known to be something else, as what a download has left;
// says what it is and what to do.
void check_tokenizer_files(const std::filesystem::path& directory);

// The tokens that end an answer: those that generation_config.json declares, else config.json, and the
// tokenizer's own end token, as other servers have it; that is for models that were made from another and
// kept its generation_config.json. Throws Error that names the file and the field when one of them is no
// token, or when there are more than the engine takes.
std::vector<int32_t> end_tokens(const std::filesystem::path& directory, const io::ModelConfig& config,
                                const text::Tokenizer& tokenizer);

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
