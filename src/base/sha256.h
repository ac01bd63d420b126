// SHA-256 (FIPS 180-4), to say which text a result was made from.
#pragma once

#include <string>
#include <string_view>

namespace chorale {

// The digest of the bytes, as 64 lower-case hexadecimal digits.
std::string sha256_hex(std::string_view bytes);

}  // namespace chorale
