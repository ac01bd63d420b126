// The header of a safetensors file: one JSON object of tensors, each {"dtype", "shape", "data_offsets"}, and
// optionally
// "__metadata__", a map of strings. It is parsed as a stream of events, so that what it costs is bounded by
// its length, its depth is bounded by the format, and a duplicate key is seen.
#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "base/math.h"
#include "io/checkpoint.h"
#include "io/json_reader.h"

namespace chorale::io {
namespace {

using nlohmann::json;
using Entry = SafetensorsHeader::Entry;

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxDimensions = 64;
constexpr std::string_view kMetadataKey = "__metadata__";

std::string known_dtypes() {
  std::string names;
  for (int i = 0; i <= static_cast<int>(DType::boolean); ++i) {
    if (i > 0) names += ", ";
    names += safetensors_name(static_cast<DType>(i));
  }
  return names;
}

class HeaderHandler {
 public:
  explicit HeaderHandler(std::string_view source) : source_(source) {}

  SafetensorsHeader take() { return std::move(header_); }

  bool null() { refuse("null"); }
  bool boolean(bool value) { refuse(value ? "true" : "false"); }
  bool number_integer(json::number_integer_t value) { refuse(fmt::format("{}", value)); }
  bool number_float(json::number_float_t, const std::string& text) { refuse(quote(text)); }
  bool binary(json::binary_t&) { refuse("binary data"); }

  bool number_unsigned(json::number_unsigned_t value) {
    if (state_ == State::shape) {
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        refuse(fmt::format("{}", value));
      if (tensor_.shape.size() == kMaxDimensions) {
        throw_error("{}: expected at most {} dimensions, found more", place(), kMaxDimensions);
      }
      tensor_.shape.push_back(static_cast<int64_t>(value));
    } else if (state_ == State::offsets) {
      if (num_offsets_ == 2) refuse("more");
      (num_offsets_++ == 0 ? tensor_.begin : tensor_.end) = value;
    } else {
      refuse(fmt::format("{}", value));
    }
    return true;
  }

  bool string(std::string& value) {
    if (state_ == State::metadata) {
      *metadata_value_ = std::move(value);
    } else if (state_ == State::tensor && field_ == Field::dtype) {
      const std::optional<DType> dtype = dtype_from_safetensors(value);
      if (!dtype) throw_error("{}: expected one of {}, found {}", place(), known_dtypes(), quote(value));
      tensor_.dtype = *dtype;
    } else {
      refuse(quote(value));
    }
    return true;
  }

  bool start_object(size_t) {
    switch (state_) {
      case State::start:
        state_ = State::root;
        break;
      case State::root:
        state_ = in_metadata_ ? State::metadata : State::tensor;
        break;
      default:
        refuse("an object");
    }
    return true;
  }

  bool end_object() {
    if (state_ == State::tensor) finish_tensor();
    in_metadata_ = false;
    state_ = State::root;
    return true;
  }

  bool start_array(size_t) {
    if (state_ == State::tensor && field_ == Field::shape) {
      state_ = State::shape;
    } else if (state_ == State::tensor && field_ == Field::offsets) {
      state_ = State::offsets;
    } else {
      refuse("an array");
    }
    return true;
  }

  bool end_array() {
    if (state_ == State::offsets && num_offsets_ != 2) refuse(fmt::format("an array of {}", num_offsets_));
    state_ = State::tensor;
    return true;
  }

  bool key(std::string& name) {
    switch (state_) {
      case State::root:
        begin_member(name);
        break;
      case State::metadata: {
        const auto [position, inserted] = header_.metadata.emplace(name, "");
        metadata_value_ = &position->second;
        metadata_key_ = std::move(name);
        if (!inserted) throw_error("{}: expected once, found a duplicate key", place());
        break;
      }
      default:
        begin_field(name);
    }
    return true;
  }

  bool parse_error(size_t position, const std::string&, const json::exception& exception) {
    throw_error("{}: invalid JSON at byte {} of the header: {}", place(), position,
                syntax_message(exception));
  }

 private:
  enum class State { start, root, metadata, tensor, shape, offsets };
  enum class Field : size_t { dtype, shape, offsets, none };
  static constexpr std::array<std::string_view, 4> kFieldNames{"dtype", "shape", "data_offsets", ""};

  void begin_member(std::string& name) {
    in_metadata_ = name == kMetadataKey;
    if (in_metadata_) {
      if (has_metadata_) throw_error("{}: {}: expected once, found a duplicate key", source_, kMetadataKey);
      has_metadata_ = true;
      metadata_key_.clear();
      return;
    }
    in_tensor_ = true;
    tensor_ = Entry{};
    tensor_.name = std::move(name);
    field_ = Field::none;
    seen_ = {};
    num_offsets_ = 0;
  }

  void begin_field(const std::string& name) {
    const auto found = std::find(kFieldNames.begin(), kFieldNames.end() - 1, name);
    field_ = static_cast<Field>(found - kFieldNames.begin());
    if (field_ == Field::none) {
      throw_error("{}: expected the fields dtype, shape and data_offsets, found {}", place(), quote(name));
    }
    bool& seen = seen_[static_cast<size_t>(field_)];
    if (seen) throw_error("{}: expected once, found a duplicate key", place());
    seen = true;
  }

  void finish_tensor() {
    field_ = Field::none;
    for (size_t i = 0; i < seen_.size(); ++i) {
      if (!seen_[i]) throw_error("{}: field \"{}\": expected a value, found none", place(), kFieldNames[i]);
    }
    header_.tensors.push_back(std::move(tensor_));
    in_tensor_ = false;
  }

  // Where the parser is, as the beginning of a message.
  std::string place() const {
    if (in_metadata_) {
      if (metadata_key_.empty()) return fmt::format("{}: {}", source_, kMetadataKey);
      return fmt::format("{}: {}: key {}", source_, kMetadataKey, quote(metadata_key_));
    }
    if (!in_tensor_) return std::string(source_);
    if (field_ == Field::none) return fmt::format("{}: tensor {}", source_, quote(tensor_.name));
    return fmt::format("{}: tensor {}: field \"{}\"", source_, quote(tensor_.name),
                       kFieldNames[static_cast<size_t>(field_)]);
  }

  std::string_view expected() const {
    switch (state_) {
      case State::start:
        return "a JSON object";
      case State::root:
        return "an object";
      case State::metadata:
        return "a string";
      case State::shape:
        return "an array of integers from 0 to 2^63 - 1";
      case State::offsets:
        return "an array of 2 integers from 0 to 2^64 - 1";
      case State::tensor:
        break;
    }
    if (field_ == Field::dtype) return "a string";
    return field_ == Field::shape ? "an array of integers" : "an array of 2 integers";
  }

  [[noreturn]] void refuse(std::string_view found) const {
    throw_error("{}: expected {}, found {}", place(), expected(), found);
  }

  std::string_view source_;
  SafetensorsHeader header_;
  State state_ = State::start;
  bool in_metadata_ = false;  // the current member of the outermost object is __metadata__
  bool has_metadata_ = false;
  std::string metadata_key_;
  std::string* metadata_value_ = nullptr;
  bool in_tensor_ = false;
  Entry tensor_;
  Field field_ = Field::none;
  std::array<bool, 3> seen_{};  // by Field
  size_t num_offsets_ = 0;
};

// Sorts the tensors by offset and checks that they fill the data section of `data_bytes` exactly.
void check_layout(std::vector<Entry>& tensors, uint64_t data_bytes, std::string_view source) {
  std::sort(tensors.begin(), tensors.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t position = 0;
  for (const Entry& t : tensors) {
    if (t.begin > t.end || t.end > data_bytes) {
      throw_error("{}: tensor {}: expected data_offsets within the {} bytes of data, found [{}, {}]", source,
                  quote(t.name), data_bytes, t.begin, t.end);
    }
    std::optional<uint64_t> size = size_of(t.dtype);
    for (const int64_t dimension : t.shape) {
      if (size) size = checked_mul(*size, static_cast<uint64_t>(dimension));
    }
    if (!size) {
      throw_error("{}: tensor {}: expected a size below 2^64 bytes, found the shape [{}], which overflows",
                  source, quote(t.name), fmt::join(t.shape, ", "));
    }
    if (*size != t.end - t.begin) {
      throw_error("{}: tensor {}: expected {} bytes for shape [{}] of {}, found {} (data_offsets [{}, {}])",
                  source, quote(t.name), *size, fmt::join(t.shape, ", "), safetensors_name(t.dtype),
                  t.end - t.begin, t.begin, t.end);
    }
    if (t.begin != position) {
      throw_error("{}: tensor {}: expected its data to begin at offset {}, found {} ({})", source,
                  quote(t.name), position, t.begin,
                  t.begin < position ? "it overlaps another tensor" : "a gap before it");
    }
    position = t.end;
  }
  if (position != data_bytes) {
    throw_error("{}: expected {} bytes of data, found {} ({} trailing bytes)", source, position, data_bytes,
                data_bytes - position);
  }
}

void check_names_unique(const std::vector<Entry>& tensors, std::string_view source) {
  std::vector<std::string_view> names;
  names.reserve(tensors.size());
  for (const Entry& t : tensors) names.push_back(t.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) {
    throw_error("{}: tensor {}: expected once, found a duplicate key", source, quote(*twice));
  }
}

// The first words of a file that begins with printable ASCII; empty: it does not.
std::string text_at_begin(std::span<const std::byte> file_bytes) {
  constexpr size_t kShown = 40;
  std::string text;
  for (const std::byte byte : file_bytes.first(std::min(file_bytes.size(), kShown))) {
    const char c = static_cast<char>(byte);
    if (c < ' ' || c > '~') break;
    text += c;
  }
  return text.size() < kLengthBytes ? "" : text;
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file_bytes, std::string_view source) {
  if (file_bytes.empty()) throw_error("{}: expected a safetensors file, found an empty file", source);
  if (file_bytes.size() < kLengthBytes) {
    throw_error("{}: expected at least {} bytes (the header's length), found {}", source, kLengthBytes,
                file_bytes.size());
  }
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    header_bytes |= std::to_integer<uint64_t>(file_bytes[i]) << (8 * i);
  }
  if (header_bytes > kMaxHeaderBytes) {
    if (const std::string text = text_at_begin(file_bytes); !text.empty())
      throw_error("{}: expected a safetensors file, found a text that begins with \"{}\"", source, text);
    throw_error("{}: expected a header length of at most {} bytes, found {}", source, kMaxHeaderBytes,
                header_bytes);
  }
  const std::span<const std::byte> rest = file_bytes.subspan(kLengthBytes);
  if (header_bytes > rest.size()) {
    throw_error("{}: expected a header length within the file ({} bytes follow), found {}", source,
                rest.size(), header_bytes);
  }
  const std::string_view text(reinterpret_cast<const char*>(rest.data()), header_bytes);
  if (!text.starts_with('{')) {
    throw_error("{}: invalid JSON: expected the header to begin with \"{{\", found {}", source,
                text.empty() ? "an empty header" : quote(text.substr(0, 1)));
  }
  HeaderHandler handler(source);
  run_json_parser(text, source, handler);
  SafetensorsHeader header = handler.take();
  header.data_start = kLengthBytes + header_bytes;
  check_names_unique(header.tensors, source);
  check_layout(header.tensors, rest.size() - header_bytes, source);
  return header;
}

}  // namespace chorale::io
