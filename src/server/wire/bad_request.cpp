#include "server/wire/bad_request.h"

#include "base/log.h"

namespace chorale::server {

HttpResponse failure_response(std::string_view what) {
  try {
    throw;
  } catch (const BadRequest& bad) {
    return error_response(bad.answer());
  } catch (const std::exception& error) {
    log::error("{}: {}", what, error.what());
    return error_response({.status = 500, .message = "the server failed to handle this request"});
  }
}

}  // namespace chorale::server
