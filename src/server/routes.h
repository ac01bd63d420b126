// The table of endpoints: which path and method does what.
#pragma once

#include <memory>
#include <span>
#include <string_view>
#include <variant>

#include "server/endpoints/server_state.h"
#include "server/generation/answer.h"
#include "server/generation/openai_answer.h"
#include "server/generation/request_context.h"
#include "server/http/exchange.h"
#include "server/wire/json_body.h"

namespace chorale::server {

// HEAD goes where GET goes. What changes something, or costs much, is not a GET, but for what clients of
// SGLang send.
enum class Methods { get, post, get_and_post, get_and_delete };

// The kinds of work that an endpoint is. All of it may throw BadRequest.
//
// What is done at once, on the thread that serves the connection:
using RespondNow = HttpResponse (*)(ServerState&, const HttpRequest&);
// What begins there, and answers when something has come about:
using RespondLater = void (*)(ServerState&, const HttpRequest&, const std::shared_ptr<Exchange>&);
// What takes time for a large body, and so has a thread that serves no connection; not while draining:
using RespondToBody = Json (*)(const Json& body, const RequestContext&);
// And what generates text. The planner has such a thread, too.
struct Generate {
  std::string_view id_prefix;  // what the ids that clients are told begin with
  AnswerPlan (*plan)(const Json& body, AnswerHead head, const RequestContext&);
};

// Doors for administrators want an administrator's key, where there is one.
enum class Door { client, admin };

struct Route {
  std::string_view path;  // "{name}" in it takes any text in its place
  Methods methods;
  std::variant<RespondNow, RespondLater, RespondToBody, Generate> work;
  Door door = Door::client;

  bool takes_get() const { return methods != Methods::post; }
  bool takes_post() const { return methods == Methods::post || methods == Methods::get_and_post; }
  bool takes_delete() const { return methods == Methods::get_and_delete; }
};

// openapi.json describes every one, which a test checks.
std::span<const Route> routes();

// The first that matches. nullptr: there is no such path.
const Route* find_route(std::string_view path);

// The path that is served for one that a client sent: without a slash at its end, where only that one is
// there.
std::string_view served_path(std::string_view path);

// Whether the path that a client sent leads to a door for administrators.
bool is_admin_door(std::string_view path);

}  // namespace chorale::server
