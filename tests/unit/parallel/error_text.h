// What a call's Error says.
#pragma once

#include <string>

#include "base/error.h"

namespace chorale::parallel {

// The text of the Error that `call` throws; empty when it throws none.
template <typename Call>
std::string error_text(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace chorale::parallel
