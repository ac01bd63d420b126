#include "apps/text_request.h"

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>

#include "base/error.h"

namespace chorale::apps {
namespace {

// Hands events from the engine's thread to the main thread.
class EventQueue {
 public:
  void push(engine::GenerationEvent event) {
    const std::scoped_lock lock(mutex_);
    events_.push_back(std::move(event));
    ready_.notify_one();
  }
  engine::GenerationEvent pop() {
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [this] { return !events_.empty(); });
    engine::GenerationEvent event = std::move(events_.front());
    events_.pop_front();
    return event;
  }

 private:
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<engine::GenerationEvent> events_;
};

}  // namespace

TextAnswer run_request(engine::Engine& engine, const text::Tokenizer& tokenizer,
                       engine::GenerationRequest request, server::TextOptions options,
                       const std::function<void(const server::TextPiece&)>& tell) {
  const std::string id = request.id;
  auto queue = std::make_shared<EventQueue>();
  const auto listener = [queue](engine::GenerationEvent event) { queue->push(std::move(event)); };
  if (const auto error = engine.submit(std::move(request), listener)) throw_error("{}", error->message);

  server::TextGeneration generation(tokenizer, std::move(options));
  TextAnswer answer;
  while (!generation.finished()) {
    server::TextPiece piece = generation.consume(queue->pop());
    answer.text += piece.text;
    answer.output_ids.insert(answer.output_ids.end(), piece.token_ids.begin(), piece.token_ids.end());
    tell(piece);
    if (piece.abort_request) engine.abort(id);
    if (generation.finished()) answer.last = std::move(piece);
  }
  return answer;
}

}  // namespace chorale::apps
