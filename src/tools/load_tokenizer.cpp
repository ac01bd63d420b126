#include "tools/load_tokenizer.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <system_error>
#include <vector>

#include <nlohmann/json.hpp>
#include <stdlib.h>

#include "base/error.h"
#include "base/log.h"
#include "engine/request.h"
#include "io/file_access.h"
#include "io/foreign_file.h"
#include "io/tokenizer_config.h"

namespace chorale::tools {
namespace {

// A folder that is gone at the end of the scope.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "chorale-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw_error("{}: a temporary folder could not be made", name);
    path_ = name;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// A code point below 0x800 as UTF-8.
std::string to_utf8(unsigned code_point) {
  if (code_point < 0x80) return {static_cast<char>(code_point)};
  return {static_cast<char>(0xC0U | (code_point >> 6)), static_cast<char>(0x80U | (code_point & 0x3FU))};
}

// Byte-level BPE writes each byte as a visible character: printable Latin-1 as it is, the others from U+0100
// on.
std::vector<std::string> byte_characters() {
  std::vector<std::string> visible;
  std::vector<std::string> shifted;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    if (printable) {
      visible.push_back(to_utf8(byte));
    } else {
      shifted.push_back(to_utf8(0x100 + static_cast<unsigned>(shifted.size())));
    }
  }
  visible.insert(visible.end(), shifted.begin(), shifted.end());
  return visible;
}

}  // namespace

void check_tokenizer_files(const std::filesystem::path& directory) {
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
                           "additional_chat_templates/tool_use.jinja"}) {
    const std::filesystem::path file = directory / name;
    if (std::filesystem::is_regular_file(file)) {
      io::refuse_foreign_file(io::MappedFile(file).bytes(), file.string());
    }
  }
}

std::vector<int32_t> end_tokens(const std::filesystem::path& directory, const io::ModelConfig& config,
                                const text::Tokenizer& tokenizer) {
  const std::vector<int64_t> generation = io::load_generation_defaults(directory).eos_token_ids;
  const std::vector<int64_t>& declared = generation.empty() ? config.eos_token_ids : generation;
  const std::string source =
      (directory / (generation.empty() ? "config.json" : "generation_config.json")).string();
  std::vector<int32_t> tokens;
  for (const int64_t id : declared) {
    if (id >= config.vocab_size || tokenizer.token_bytes(static_cast<int32_t>(id)).empty()) {
      throw_error(
          "{}: field \"eos_token_id\": expected tokens of tokenizer.json below {} (vocab_size in "
          "config.json), found "
          "{}",
          source, config.vocab_size, id);
    }
    if (std::ranges::find(tokens, id) == tokens.end()) tokens.push_back(static_cast<int32_t>(id));
  }
  const std::optional<std::string> own = io::load_tokenizer_config(directory).eos_token;
  const std::optional<int32_t> id = own ? tokenizer.token_to_id(*own) : std::nullopt;
  if (id && std::ranges::find(tokens, *id) == tokens.end()) tokens.push_back(*id);
  if (tokens.size() > engine::kMaxEosTokenIds) {
    throw_error("{}: field \"eos_token_id\": expected at most {} tokens, with the tokenizer's own, found {}",
                source, engine::kMaxEosTokenIds, tokens.size());
  }
  return tokens;
}

text::Tokenizer load_tokenizer(const std::filesystem::path& directory, const io::ModelConfig& config) {
  check_tokenizer_files(directory);
  text::Tokenizer tokenizer = text::Tokenizer::load(directory);
  if (tokenizer.vocab_size() > config.vocab_size) {
    throw_error(
        "{}: the vocabulary has {} tokens, more than the {} rows of the embedding (vocab_size in "
        "config.json)",
        (directory / "tokenizer.json").string(), tokenizer.vocab_size(), config.vocab_size);
  }
  return tokenizer;
}

text::Tokenizer load_tokenizer_or_stand_in(const std::filesystem::path& directory,
                                           const io::ModelConfig& config) {
  if (std::filesystem::exists(directory / "tokenizer.json")) return load_tokenizer(directory, config);
  log::warn("{} has no tokenizer.json; a stand-in with one token per byte is used", directory.string());
  const TemporaryFolder folder;
  std::ofstream(folder.path() / "tokenizer.json") << stand_in_tokenizer_json(config.vocab_size);
  return load_tokenizer(folder.path(), config);
}

std::string stand_in_tokenizer_json(int64_t vocab_size) {
  const std::vector<std::string> bytes = byte_characters();
  const auto size = static_cast<size_t>(vocab_size);
  nlohmann::json vocab = nlohmann::json::object();
  for (size_t id = 0; id < size; ++id) {
    vocab[id < bytes.size() ? bytes[id] : "\u0120" + std::to_string(id)] = id;  // U+0120 stands for the space
  }
  const nlohmann::json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  const nlohmann::json tokenizer = {{"version", "1.0"},
                                    {"truncation", nullptr},
                                    {"padding", nullptr},
                                    {"added_tokens", nlohmann::json::array()},
                                    {"normalizer", nullptr},
                                    {"pre_tokenizer", byte_level},
                                    {"post_processor", nullptr},
                                    {"decoder", byte_level},
                                    {"model",
                                     {{"type", "BPE"},
                                      {"dropout", nullptr},
                                      {"unk_token", nullptr},
                                      {"continuing_subword_prefix", nullptr},
                                      {"end_of_word_suffix", nullptr},
                                      {"fuse_unk", false},
                                      {"byte_fallback", false},
                                      {"vocab", std::move(vocab)},
                                      {"merges", nlohmann::json::array()}}}};
  return tokenizer.dump();
}

bool is_valid_utf8(std::string_view text) {
  const auto byte = [&](size_t i) -> unsigned {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const auto continues = [&](size_t i) { return (byte(i) & 0xC0U) == 0x80U; };
  for (size_t i = 0; i < text.size();) {
    const unsigned lead = byte(i);
    const unsigned second = byte(i + 1);
    if (lead < 0x80) {
      i += 1;
    } else if (lead >= 0xC2 && lead <= 0xDF && continues(i + 1)) {
      i += 2;
    } else if ((lead & 0xF0U) == 0xE0U && continues(i + 1) && continues(i + 2) &&
               !(lead == 0xE0 && second < 0xA0) && !(lead == 0xED && second > 0x9F)) {
      i += 3;
    } else if (lead >= 0xF0 && lead <= 0xF4 && continues(i + 1) && continues(i + 2) && continues(i + 3) &&
               !(lead == 0xF0 && second < 0x90) && !(lead == 0xF4 && second > 0x8F)) {
      i += 4;
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace chorale::tools
