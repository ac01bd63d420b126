#include "server/endpoints/models.h"

#include <algorithm>
#include <charconv>
#include <string>
#include <string_view>
#include <utility>

#include "server/generation/sampling_fields.h"
#include "server/wire/json_body.h"

namespace chorale::server {
namespace {

constexpr std::string_view kModels = "/v1/models/";

// The bytes that %XX stand for in a path. What is not of that form stays as it is.
std::string percent_decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned int byte = 0;
    const char* end = text.data() + std::min(i + 3, text.size());
    if (text[i] == '%' && std::from_chars(text.data() + i + 1, end, byte, 16).ptr == text.data() + i + 3) {
      out += static_cast<char>(byte);
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

Json model_json(const ServerState& state, const std::string& name) {
  return {{"id", name},
          {"object", "model"},
          {"created", state.created},
          {"owned_by", "chorale"},
          {"max_model_len", state.context.model.max_context_len}};
}

}  // namespace

HttpResponse list_models(ServerState& state, const HttpRequest& /*request*/) {
  Json list = Json::array();
  for (const std::string& name : state.context.model_names) list.push_back(model_json(state, name));
  return {.body = to_text({{"object", "list"}, {"data", std::move(list)}})};
}

HttpResponse describe_model(ServerState& state, const HttpRequest& request) {
  const std::string name = percent_decoded(std::string_view(request.path).substr(kModels.size()));
  check_model_name(name, state.context);
  return {.body = to_text(model_json(state, name))};
}

}  // namespace chorale::server
