// chorale chat: a conversation at the terminal, or of the lines of standard input.
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <unistd.h>

#include "apps/command.h"
#include "apps/conversation.h"
#include "apps/interrupt.h"
#include "apps/sampling_flags.h"
#include "apps/settings.h"
#include "apps/text_model.h"
#include "apps/text_request.h"
#include "base/error.h"
#include "base/log.h"
#include "engine/engine.h"
#include "io/model_folder.h"
#include "server/chat/message_parser.h"
#include "server/chat/prompt.h"
#include "server/wire/bad_request.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "tools/load_tokenizer.h"

namespace chorale::apps {
namespace {

constexpr const char* kRequestId = "chat";

struct ChatFlags {
  engine::LoadOptions load;
  std::filesystem::path chat_template;  // empty: the model's
  SamplingFlags sampling;
  std::string system_prompt;
  bool no_thinking = false;
  std::string log_level = "warn";
};

// What the answers are made of, for as long as the command runs.
struct ChatModel {
  engine::Engine& engine;
  const text::Tokenizer& tokenizer;
  const text::ChatTemplate& chat;
  engine::SamplingParams sampling;
  int64_t context = 0;
};

// Shows an answer as it comes: reasoning dimmed where the terminal can, else between two marks.
class AnswerPrinter {
 public:
  explicit AnswerPrinter(bool dims) : dims_(dims) {}

  void print(const server::MessagePiece& piece) {
    if (!piece.reasoning.empty() && !std::exchange(is_reasoning_, true))
      fmt::print("{}", dims_ ? "\x1b[2m" : "[Start thinking]\n");
    fmt::print("{}", piece.reasoning);
    if (!piece.content.empty()) end_reasoning("\n\n");
    fmt::print("{}", piece.content);
    std::fflush(stdout);
  }
  void finish() {
    end_reasoning("");
    fmt::print("\n");
    std::fflush(stdout);
  }

 private:
  void end_reasoning(const char* space) {
    if (std::exchange(is_reasoning_, false))
      fmt::print("{}{}", dims_ ? "\x1b[0m" : "\n[End thinking]", space);
  }

  bool dims_;
  bool is_reasoning_ = false;
};

bool dims_reasoning() {
  const char* no_color = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  return isatty(STDOUT_FILENO) != 0 && (no_color == nullptr || *no_color == 0) && terminal != nullptr &&
         std::string_view(terminal) != "dumb";
}

class ChatSession {
 public:
  ChatSession(const ChatFlags& flags, ChatModel model, InterruptWatcher& interrupt)
      : flags_(flags), model_(std::move(model)), interrupt_(interrupt) {
    conversation_.set_system(flags.system_prompt);
  }

  void run() {
    if (is_interactive_) {
      fmt::print("{}, a context of {} tokens. /help lists the commands, Ctrl-D leaves.\n",
                 io::model_name(flags_.load.model_path.string()), model_.context);
    }
    while (!leaves_) {
      const std::optional<std::string> line = read_line();
      if (!line) break;
      try {
        follow(read_chat_line(*line));
      } catch (const server::BadRequest& refusal) {
        complain(refusal.what());
      }
    }
  }

 private:
  // A line that ends with \ goes on in the next one. nullopt: there is no more.
  std::optional<std::string> read_line() const {
    std::string text;
    for (const char* prompt = "> ";; prompt = "... ") {
      if (is_interactive_) fmt::print("{}", prompt);
      std::fflush(stdout);
      std::string line;
      if (!std::getline(std::cin, line)) {
        if (is_interactive_) fmt::print("\n");
        return text.empty() ? std::nullopt : std::optional(text);
      }
      if (line.ends_with('\r')) line.pop_back();
      text += line;
      if (!text.ends_with('\\')) return text;
      text.back() = '\n';
    }
  }

  void follow(ChatLine line) {
    switch (line.kind) {
      case ChatLine::Kind::nothing:
        return;
      case ChatLine::Kind::message:
        return ask(std::move(line.text));
      case ChatLine::Kind::help:
        fmt::print("{}", chat_help());
        return;
      case ChatLine::Kind::leave:
        leaves_ = true;
        return;
      case ChatLine::Kind::clear:
        return conversation_.clear();
      case ChatLine::Kind::system:
        require_utf8(line.text);
        return conversation_.set_system(std::move(line.text));
      case ChatLine::Kind::again:
        return answer_again();
      case ChatLine::Kind::unknown: {
        const auto nearest = nearest_chat_command(line.text);
        return complain(
            fmt::format("there is no command {}{}", log::escape(line.text),
                        nearest ? fmt::format("; did you mean {}?", *nearest) : "; /help lists them"));
      }
    }
  }

  static void require_utf8(const std::string& text) {
    if (!tools::is_valid_utf8(text)) server::bad_request("", "the text is not valid UTF-8");
  }

  // A message that cannot be answered is as if it were not said.
  void answer_or_take_back(const Conversation& before) {
    try {
      answer();
    } catch (const server::BadRequest&) {
      conversation_ = before;
      throw;
    }
  }

  void ask(std::string text) {
    require_utf8(text);
    const Conversation before = conversation_;
    conversation_.ask(std::move(text));
    answer_or_take_back(before);
  }

  void answer_again() {
    const Conversation before = conversation_;
    if (!conversation_.reopen()) return complain("there is no message to answer anew");
    answer_or_take_back(before);
  }

  void answer() {
    server::Json variables = {{"messages", conversation_.messages()}, {"add_generation_prompt", true}};
    if (flags_.no_thinking) variables["enable_thinking"] = false;
    const std::string prompt = server::render_template(model_.chat, variables);
    engine::GenerationRequest request = make_request(prompt);

    auto options = std::make_shared<server::MessageOptions>();
    options->reasoning_opened = server::opens_reasoning(prompt);
    server::MessageParser parser(options);
    server::MessagePiece whole;
    AnswerPrinter printer(dims_reasoning());
    const auto tell = [&](const server::MessagePiece& piece) {
      printer.print(piece);
      whole.reasoning += piece.reasoning;
      whole.content += piece.content;
    };
    const auto armed = interrupt_.on_interrupt([this](int signal) {
      if (signal == SIGTERM) leaves_ = true;
      model_.engine.abort(kRequestId);
    });
    const server::TextOptions text{.stop = flags_.sampling.stop,
                                   .kept_tokens = server::tag_tokens(model_.tokenizer, *options)};
    const TextAnswer answer =
        run_request(model_.engine, model_.tokenizer, std::move(request), text,
                    [&](const server::TextPiece& piece) { tell(parser.push(piece.text)); });
    tell(parser.finish());
    printer.finish();
    if (answer.last.error) throw_error("{}", answer.last.error->message);
    if (answer.last.finish == engine::FinishReason::length)
      fmt::print(stderr, "(cut off after {} tokens)\n", answer.last.num_completion_tokens);
    conversation_.answer(std::move(whole.content), std::move(whole.reasoning));
  }

  engine::GenerationRequest make_request(const std::string& prompt) {
    engine::GenerationRequest request;
    request.id = kRequestId;
    request.prompt_ids = model_.tokenizer.encode(prompt, false);
    const int64_t room = model_.context - std::ssize(request.prompt_ids);
    if (room < 1) {
      server::bad_request("",
                          "the conversation has {} tokens with this message, the model's context {}; /clear "
                          "begins a new one",
                          request.prompt_ids.size(), model_.context);
    }
    request.sampling = model_.sampling;
    request.sampling.max_new_tokens = std::min(flags_.sampling.max_new_tokens.value_or(room), room);
    // Else an answer that is made anew would be the same.
    if (request.sampling.seed) *request.sampling.seed += num_answers_;
    ++num_answers_;
    return request;
  }

  // A person may go on with something else; a script would not see that an answer is missing.
  void complain(const std::string& message) const {
    if (!is_interactive_) throw_error("{}", message);
    fmt::print(stderr, "{}\n", message);
  }

  const ChatFlags& flags_;
  ChatModel model_;
  InterruptWatcher& interrupt_;
  Conversation conversation_;
  const bool is_interactive_ = isatty(STDIN_FILENO) != 0 && isatty(STDOUT_FILENO) != 0;
  uint64_t num_answers_ = 0;
  std::atomic<bool> leaves_{false};  // set by the thread that waits for signals, too
};

int run_chat(const ChatFlags& flags) {
  log::set_level(log::parse_level(flags.log_level));
  require_utf8(flags.system_prompt, "--system-prompt");
  for (const std::string& stop : flags.sampling.stop) require_utf8(stop, "--stop");
  InterruptWatcher interrupt;
  const io::ModelConfig config = io::load_model_config(flags.load.model_path);
  const text::Tokenizer tokenizer = load_tokenizer(flags.load, config);
  const std::optional<text::ChatTemplate> chat =
      load_chat_template(flags.load.model_path, flags.chat_template);
  if (!chat) throw_error("{} has no chat template; use chorale generate", flags.load.model_path.string());
  if (chat->error()) throw_error("the chat template cannot be used: {}", *chat->error());

  engine::LoadOptions load = flags.load;
  load.max_running_requests = 1;
  load.show_progress = isatty(STDERR_FILENO) != 0;
  engine::LoadedModel model = engine::LoadedModel::load(load);
  if (!model.is_driver()) return model.serve_steps();
  engine::EngineOptions options;
  options.max_total_tokens = model.info().max_total_tokens;
  options.chunked_prefill_size = load.chunked_prefill_size;
  options.max_running_requests = 1;
  options.max_context_len = model.info().max_context_len;
  options.eos_token_ids = tools::end_tokens(load.model_path, config, tokenizer);
  engine::Engine engine(model.runner(), options);
  const engine::SamplingParams sampling = sampling_params(flags.sampling, model.info().generation_defaults);
  ChatSession(flags, {engine, tokenizer, *chat, sampling, model.info().max_context_len}, interrupt).run();
  return 0;
}

}  // namespace

Command add_chat(CLI::App& root) {
  auto flags = std::make_shared<ChatFlags>();
  CLI::App* app = root.add_subcommand("chat", "Chat with a model at the terminal");
  app->group(kOffline);
  add_config_flag(*app);
  app->add_option("--system-prompt", flags->system_prompt, "What the model is told before the conversation")
      ->option_text("TEXT")
      ->group("Input");
  app->add_flag("--no-thinking", flags->no_thinking, "Render with enable_thinking = false")->group("Input");
  add_chat_template_flag(*app, flags->chat_template);
  add_sampling_flags(*app, flags->sampling, "up to the end of the context");
  add_model_flags(*app, flags->load);
  add_execution_flags(*app, flags->load);
  add_parallel_flags(*app, flags->load);
  add_chunk_flag(*app, flags->load)->group("Execution");
  add_log_level_flag(*app, flags->log_level)->group("Output");
  return {app, [flags] { return run_chat(*flags); }};
}

}  // namespace chorale::apps
