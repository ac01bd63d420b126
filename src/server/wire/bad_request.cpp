#include "server/wire/bad_request.h"

#include "base/log.h"

namespace chorale::server {

HttpResponse failure_response(const RequestLabel& request) {
  try {
    throw;
  } catch (const BadRequest& bad) {
    return error_response(bad.answer(), request.errors);
  } catch (const std::exception& error) {
    log::error("{}: {}", request.name, error.what());
    return error_response({.status = 500, .message = "the server failed to handle this request"},
                          request.errors);
  }
}

}  // namespace chorale::server
