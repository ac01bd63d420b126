#include "apps/text_model.h"

#include <algorithm>
#include <charconv>
#include <system_error>

#include <unistd.h>

#include "base/error.h"
#include "base/math.h"
#include "tools/load_tokenizer.h"

namespace chorale::apps {

std::vector<int32_t> parse_input_ids(std::string_view text, int64_t vocab_size) {
  std::vector<int32_t> ids;
  const char* next = text.data();
  const char* const end = text.data() + text.size();
  while (true) {
    int32_t id = 0;
    const auto [after, error] = std::from_chars(next, end, id);
    if (error != std::errc{} || (after != end && *after != ',')) {
      throw_error(
          "--input-ids: expected token ids separated by commas, as in 1,2,3; found \"{}\" at character {}",
          std::string_view(next, static_cast<size_t>(std::min<ptrdiff_t>(end - next, 20))),
          next - text.data() + 1);
    }
    if (id < 0 || id >= vocab_size) {
      throw_error("--input-ids: id {} is not in the model's vocabulary, 0 to {}", id, vocab_size - 1);
    }
    ids.push_back(id);
    if (after == end) return ids;
    next = after + 1;
  }
}

text::Tokenizer load_tokenizer(const engine::LoadOptions& options, const io::ModelConfig& config) {
  return options.load_format == "dummy" ? tools::load_tokenizer_or_stand_in(options.model_path, config)
                                        : tools::load_tokenizer(options.model_path, config);
}

std::optional<text::ChatTemplate> load_chat_template(const std::filesystem::path& model_path,
                                                     const std::filesystem::path& file) {
  if (file.empty()) return text::ChatTemplate::load(model_path);
  text::ChatTemplate chat = text::ChatTemplate::load(model_path, file);
  if (chat.error()) throw_error("--chat-template {}", *chat.error());
  return chat;
}

void require_utf8(std::string_view text, std::string_view flag) {
  if (!tools::is_valid_utf8(text)) throw_error("{}: the text is not valid UTF-8", flag);
}

engine::LoadedModel load_for_one_sequence(engine::LoadOptions options, const io::ModelConfig& config,
                                          int64_t max_tokens, std::string_view what) {
  const int64_t context = options.context_length > 0
                              ? std::min(options.context_length, config.max_position_embeddings)
                              : config.max_position_embeddings;
  if (max_tokens > context) {
    throw_error("{} has {} tokens; the model's context has {}", what, max_tokens, context);
  }
  options.chunked_prefill_size = std::min(options.chunked_prefill_size, max_tokens);
  options.max_total_tokens = max_tokens;
  options.show_progress = isatty(STDERR_FILENO) != 0;
  options.max_running_requests = 1;
  options.max_logits_rows = options.chunked_prefill_size;
  return engine::LoadedModel::load(options);
}

}  // namespace chorale::apps
