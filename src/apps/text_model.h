// What the offline subcommands share: token ids from their flags, and a model that is just large enough for
// them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/loaded_model.h"
#include "io/model_config.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace chorale::apps {

// "1,2,3" as ids. Throws Error naming --input-ids for anything else, or an id that the vocabulary does not
// have.
std::vector<int32_t> parse_input_ids(std::string_view text, int64_t vocab_size);

// The model's tokenizer; with random weights (--load-format dummy) a stand-in where the folder has none.
text::Tokenizer load_tokenizer(const engine::LoadOptions& options, const io::ModelConfig& config);

// The model's chat template, or that of a file where one is named. Throws Error naming --chat-template for a
// file that cannot be used; a template of the model's own then has error().
std::optional<text::ChatTemplate> load_chat_template(const std::filesystem::path& model_path,
                                                     const std::filesystem::path& file);

// Throws Error naming the flag when the text is not UTF-8, as it may be on a command line or in a file.
void require_utf8(std::string_view text, std::string_view flag);

// Loads a model for one sequence of at most `max_tokens` at a time, all of whose logits are wanted. Throws
// Error when that is more than the model's context. `what` names the sequence in that message.
engine::LoadedModel load_for_one_sequence(engine::LoadOptions options, const io::ModelConfig& config,
                                          int64_t max_tokens, std::string_view what);

}  // namespace chorale::apps
