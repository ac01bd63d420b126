// Reads the members of one JSON object from a client: by name, with type and range. Clients send many fields
// that only some servers know: one that is unknown here is ignored, and the log tells of it once; one that is
// known to ask for what is not there is refused. A member that is null counts as absent.
//
//   Fields fields(body, "");
//   auto temperature = fields.number("temperature", 0, 100);
//   fields.accept({"user", "metadata"});            // known to change nothing
//   fields.refuse("tools", "tools are not supported yet");
//   fields.finish();                                // logs what is left
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/wire/json_body.h"

namespace chorale::server {

// All functions throw BadRequest that names the field. Not thread-safe. The object must outlive this.
class Fields {
 public:
  // `path` stands before the names in messages and `param`: "sampling_params" gives "sampling_params.top_p".
  Fields(const Json& object, std::string path);

  // nullptr when absent or null.
  const Json* get(std::string_view name);

  // Ranges are inclusive; the highest number may be infinity.
  std::optional<double> number(std::string_view name, double lowest, double highest);
  std::optional<int64_t> integer(std::string_view name, int64_t lowest, int64_t highest);
  std::optional<bool> boolean(std::string_view name);
  std::optional<std::string> string(std::string_view name);

  // Known fields that change nothing here, whatever their value.
  void accept(std::initializer_list<std::string_view> names);
  // A field that is not supported: only absent, or one of the values that ask for nothing, will do.
  void refuse(std::string_view name, std::string_view why, const std::vector<Json>& neutral = {});
  // Call last.
  void finish() const;

  // "path.name".
  std::string param(std::string_view name) const;

 private:
  const Json* object_;
  std::string path_;
  std::vector<bool> known_;
};

// The value as a whole number (2.0 counts), or a BadRequest that names `param`.
int64_t to_integer(const Json& value, const std::string& param, int64_t lowest, int64_t highest);
double to_number(const Json& value, const std::string& param, double lowest, double highest);
const std::string& to_string(const Json& value, const std::string& param);

// A list of token ids in [0, vocab_size).
std::vector<int32_t> to_token_ids(const Json& value, const std::string& param, int64_t vocab_size);

}  // namespace chorale::server
