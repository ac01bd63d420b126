// Splits generated text, as it comes, into the reasoning between <think> and </think> and the content after
// it.
//
// <think> counts at the start of the text alone, after white space. Where the prompt has opened it already,
// the text begins inside the reasoning; a <think> that the model writes nevertheless is swallowed. Text that
// ends inside the reasoning is reasoning as a whole. Line breaks after <think>, before </think> and after it
// belong to the tags, as in Qwen3's chat template, which takes the same ones away from earlier answers; other
// white space stays. (vLLM and SGLang leave these line breaks where they are.)
//
// The result depends on the text alone and not on how it was cut into pieces. Text that may still become a
// tag, or a line break that belongs to one, is held back, and nothing else.
#pragma once

#include <string>
#include <string_view>

namespace chorale::server {

inline constexpr std::string_view kThinkOpen = "<think>";
inline constexpr std::string_view kThinkClose = "</think>";

// Not thread-safe.
class ReasoningParser {
 public:
  struct Options {
    bool opened = false;    // the prompt ends inside <think>
    bool verbatim = false;  // the reasoning keeps its tags and line breaks: nothing of the text is left out
  };
  struct Result {
    std::string reasoning;
    std::string content;
  };

  explicit ReasoningParser(Options options) : options_(options) {}

  Result push(std::string_view piece);
  // What is held back when the text ends.
  Result finish();

  // Inside the reasoning: it has begun, or the prompt has opened it, and is not closed.
  bool is_reasoning() const {
    return state_ == State::reasoning || (state_ == State::start && options_.opened);
  }
  // False once the content has begun, or can only begin.
  bool may_reason() const { return state_ == State::start || state_ == State::reasoning; }

 private:
  enum class State { start, reasoning, after, content };

  void push(char c, Result& result);
  void start(char c, Result& result);
  void reason(char c, Result& result);
  void begin(Result& result);  // what is held back at the start is not <think>

  Options options_;
  State state_ = State::start;
  std::string space_;    // held back: white space before what may become a tag
  std::string tag_;      // held back: the beginning of a tag
  bool leading_ = true;  // the reasoning has had nothing but line breaks
};

// Whether a prompt, as the chat template wrote it, ends with <think>, or with </think>: reasoning, perhaps
// empty, that the model need not write any more.
bool opens_reasoning(std::string_view prompt);
bool closes_reasoning(std::string_view prompt);

}  // namespace chorale::server
