#include "tools/bench_serve/requests.h"

#include <algorithm>

#include "base/error.h"
#include "base/random.h"
#include "tools/bench_serve/random_streams.h"

namespace chorale::bench_serve {
namespace {

// Enough that prompts share no prefix by chance, few enough that they are found quickly.
constexpr size_t kMaxWords = 4096;

// Evenly from [0, count).
int64_t random_below(int64_t count, uint64_t seed, uint32_t stream, uint64_t index) {
  return static_cast<int64_t>(random_uniform(seed, stream, index) * static_cast<double>(count));
}

uint32_t prompt_stream(int64_t request) {
  return kFirstPromptStream + static_cast<uint32_t>(request);
}

// The requests but for their prompts.
std::vector<Request> draw_all_lengths(const RandomShape& shape, uint64_t seed) {
  std::vector<Request> requests(static_cast<size_t>(shape.requests));
  for (int64_t r = 0; r < shape.requests; ++r) {
    const RequestLengths lengths = draw_lengths(shape, seed, r);
    requests[static_cast<size_t>(r)].prompt_tokens = lengths.prompt_tokens;
    requests[static_cast<size_t>(r)].output_tokens = lengths.output_tokens;
  }
  return requests;
}

// " word", as tokenizers keep it apart from its neighbours.
bool looks_like_word(const std::string& text) {
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  return text.size() > 2 && text.front() == ' ' && std::all_of(text.begin() + 1, text.end(), is_letter);
}

// Texts that are one token each.
std::vector<std::string> find_words(const text::Tokenizer& tokenizer) {
  std::vector<std::string> words;
  for (int32_t id = 0; id < tokenizer.vocab_size() && words.size() < kMaxWords; ++id) {
    if (tokenizer.is_special(id)) continue;
    std::string text = tokenizer.token_bytes(id);
    if (looks_like_word(text) && tokenizer.encode(text, false) == std::vector{id})
      words.push_back(std::move(text));
  }
  if (words.empty()) throw_error("--tokenizer: its vocabulary has no words to make random texts of");
  return words;
}

std::string random_text(const std::vector<std::string>& words, int64_t count, uint64_t seed,
                        uint32_t stream) {
  std::string text;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t word = random_below(std::ssize(words), seed, stream, static_cast<uint64_t>(i));
    text += words[static_cast<size_t>(word)];
  }
  return text;
}

}  // namespace

int64_t RandomShape::least(int64_t tokens) const {
  return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(tokens) * range_ratio));
}

RequestLengths draw_lengths(const RandomShape& shape, uint64_t seed, int64_t request) {
  CHORALE_CHECK(shape.prompt_tokens > 0 && shape.output_tokens > 0);
  CHORALE_CHECK(shape.range_ratio >= 0 && shape.range_ratio <= 1);
  const auto draw = [&](int64_t tokens, uint32_t stream) {
    const int64_t least = shape.least(tokens);
    return least + random_below(tokens - least + 1, seed, stream, static_cast<uint64_t>(request));
  };
  return {.prompt_tokens = draw(shape.prompt_tokens, kPromptLengthStream),
          .output_tokens = draw(shape.output_tokens, kOutputLengthStream)};
}

std::vector<Request> random_id_requests(const RandomShape& shape, int64_t vocab_size, uint64_t seed) {
  CHORALE_CHECK(vocab_size > 0);
  std::vector<Request> requests = draw_all_lengths(shape, seed);
  for (int64_t r = 0; r < shape.requests; ++r) {
    Request& request = requests[static_cast<size_t>(r)];
    std::vector<int32_t> ids(static_cast<size_t>(*request.prompt_tokens));
    for (size_t i = 0; i < ids.size(); ++i)
      ids[i] = static_cast<int32_t>(random_below(vocab_size, seed, prompt_stream(r), i));
    request.prompt = std::move(ids);
  }
  return requests;
}

std::vector<Request> random_text_requests(const RandomShape& shape, const text::Tokenizer& tokenizer,
                                          uint64_t seed) {
  const std::vector<std::string> words = find_words(tokenizer);
  const int64_t added = std::ssize(tokenizer.encode(words.front(), true)) - 1;
  std::vector<Request> requests = draw_all_lengths(shape, seed);
  for (int64_t r = 0; r < shape.requests; ++r) {
    Request& request = requests[static_cast<size_t>(r)];
    const int64_t wanted = *request.prompt_tokens;
    if (wanted <= added)
      throw_error("--random-input-len: the tokenizer alone adds {} tokens to a prompt of {}", added, wanted);
    std::string text = random_text(words, wanted - added, seed, prompt_stream(r));
    if (const int64_t found = std::ssize(tokenizer.encode(text, true)); found != wanted)
      throw_error("--tokenizer: {} words became {} tokens, so no text of an exact length can be made",
                  wanted - added, found);
    request.prompt = std::move(text);
  }
  return requests;
}

}  // namespace chorale::bench_serve
