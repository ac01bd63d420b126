#include "server/generation/structured_output.h"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <variant>

#include "server/generation/json_schema.h"
#include "server/generation/overlapping_options.h"
#include "server/wire/bad_request.h"
#include "text/grammar.h"

namespace chorale::server {
namespace {

using Kind = OutputConstraint::Kind;

// The schema as the engine takes it. `name` is what a message calls it.
OutputConstraint schema_constraint(const Json& value, const std::string& param, const std::string& name,
                                   bool strict) {
  OutputConstraint constraint{strict ? Kind::json_schema : Kind::lenient_json_schema, ""};
  Json parsed;
  const Json* schema = &value;
  if (value.is_string()) {
    constraint.text = value.get<std::string>();
    try {
      parsed = parse_json_body(constraint.text);
    } catch (const BadRequest&) {
      return constraint;  // the engine says what is wrong with it
    }
    schema = &parsed;
  } else if (!value.is_object()) {
    bad_request(param, "'{}' must be a JSON schema, as an object or as text, not {}", param, describe(value));
  }
  const ReadySchema ready = ready_schema(*schema, SchemaForm::exact);
  tell_left_out(ready.left_out, strict, name, param);
  constraint.text = to_text(ready.schema);
  return constraint;
}

std::string choice_text(const Json& value, const std::string& param) {
  if (!value.is_array() || value.empty()) {
    bad_request(param, "'{}' must be a list of strings, not {}", param, describe(value));
  }
  for (const Json& choice : value) to_string(choice, param);
  return to_text(value);
}

RequestedFormat make_format(Kind kind, const Json& value, std::string param) {
  RequestedFormat format;
  format.constraint.kind = kind;
  switch (kind) {
    case Kind::json_schema:
      format.constraint = schema_constraint(value, param, fmt::format("'{}'", param), false);
      break;
    case Kind::choice:
      format.constraint.text = choice_text(value, param);
      break;
    case Kind::json_object:
      break;
    default:
      format.constraint.text = to_string(value, param);
  }
  format.param = std::move(param);
  return format;
}

struct FormatField {
  std::string_view name;
  Kind kind;
};
constexpr std::array<FormatField, 8> kFormatFields = {{{"json_schema", Kind::json_schema},
                                                       {"regex", Kind::regex},
                                                       {"ebnf", Kind::ebnf},
                                                       {"grammar", Kind::ebnf},
                                                       {"guided_json", Kind::json_schema},
                                                       {"guided_regex", Kind::regex},
                                                       {"guided_grammar", Kind::ebnf},
                                                       {"guided_choice", Kind::choice}}};
constexpr std::array<FormatField, 4> kStructuredOutputs = {
    {{"json", Kind::json_schema}, {"regex", Kind::regex}, {"grammar", Kind::ebnf}, {"choice", Kind::choice}}};

std::optional<RequestedFormat> read_response_format(const Json& value) {
  Fields fields(value, "response_format");
  const std::string param = fields.param("type");
  const std::optional<std::string> type = fields.string("type");
  if (type == "text") return std::nullopt;
  if (type == "json_object") {
    if (const Json* schema = fields.get("schema")) {  // llama-server
      return make_format(Kind::json_schema, *schema, fields.param("schema"));
    }
    return make_format(Kind::json_object, value, "response_format");
  }
  if (type != "json_schema") {
    bad_request(param, "'{}' must be 'text', 'json_object' or 'json_schema'", param);
  }
  const Json* format = fields.get("json_schema");
  if (format == nullptr)
    bad_request("response_format.json_schema", "'response_format.json_schema' is missing");
  Fields inner(*format, "response_format.json_schema");
  inner.accept({"description"});
  const bool strict = inner.boolean("strict").value_or(false);
  const Json* name = inner.get("name");
  const Json* schema = inner.get("schema");
  const std::string schema_param = inner.param("schema");
  if (schema == nullptr) bad_request(schema_param, "'{}' is missing", schema_param);
  const std::string called = name != nullptr && name->is_string()
                                 ? fmt::format("the schema {}", quote(name->get_ref<const std::string&>()))
                                 : fmt::format("'{}'", schema_param);
  RequestedFormat out{schema_constraint(*schema, schema_param, called, strict), schema_param};
  if (strict) out.strict.push_back({*schema, called, schema_param});
  return out;
}

void read_structured_outputs(const Json& value, std::vector<RequestedFormat>& found) {
  Fields fields(value, "structured_outputs");
  for (const auto& [name, kind] : kStructuredOutputs) {
    if (const Json* text = fields.get(name)) found.push_back(make_format(kind, *text, fields.param(name)));
  }
  if (fields.boolean("json_object").value_or(false)) {
    found.push_back(make_format(Kind::json_object, value, fields.param("json_object")));
  }
  fields.refuse("structural_tag", "use a grammar");
  fields.finish();
}

text::GrammarKind grammar_kind(Kind kind) {
  switch (kind) {
    case Kind::json_schema:
      return text::GrammarKind::kJsonSchema;
    case Kind::lenient_json_schema:
      return text::GrammarKind::kLenientJsonSchema;
    case Kind::json_object:
      return text::GrammarKind::kJsonObject;
    case Kind::regex:
      return text::GrammarKind::kRegex;
    case Kind::ebnf:
      return text::GrammarKind::kEbnf;
    case Kind::written:
      return text::GrammarKind::kWritten;
    case Kind::choice:
      return text::GrammarKind::kChoice;
  }
  return text::GrammarKind::kJsonObject;
}

// The ids of the tags around reasoning, and of what ends an output.
struct ReasoningTokens {
  int32_t open = -1, close = -1;
  std::vector<int32_t> eos;
};

void set_bit(std::span<uint32_t> mask, int32_t token) {
  mask[static_cast<size_t>(token) / 32] |= uint32_t{1} << (static_cast<uint32_t>(token) % 32);
}

void clear_bit(std::span<uint32_t> mask, int32_t token) {
  mask[static_cast<size_t>(token) / 32] &= ~(uint32_t{1} << (static_cast<uint32_t>(token) % 32));
}

class GrammarConstraint : public engine::TokenConstraint {
 public:
  GrammarConstraint(std::shared_ptr<const text::Grammar> grammar, ReasoningStart reasoning,
                    std::shared_ptr<const ReasoningTokens> tokens, std::string param)
      : matcher_(std::move(grammar)),
        reasoning_(reasoning),
        tokens_(std::move(tokens)),
        param_(std::move(param)) {}

  std::optional<RequestError> next_mask(std::span<uint32_t> mask) override {
    if (reasoning_ == ReasoningStart::opened) {  // which must be closed before the end
      std::ranges::fill(mask, ~uint32_t{0});
      for (const int32_t token : tokens_->eos) clear_bit(mask, token);
      return std::nullopt;
    }
    if (auto error = matcher_.compute_mask(mask)) return named(std::move(*error));
    if (reasoning_ == ReasoningStart::allowed) set_bit(mask, tokens_->open);
    return std::nullopt;
  }

  std::optional<RequestError> accept(int32_t token) override {
    if (reasoning_ == ReasoningStart::opened) {
      if (token == tokens_->close) reasoning_ = ReasoningStart::none;
      return std::nullopt;
    }
    const bool opens = reasoning_ == ReasoningStart::allowed && token == tokens_->open;
    reasoning_ = opens ? ReasoningStart::opened : ReasoningStart::none;
    if (opens) return std::nullopt;
    std::variant<bool, RequestError> accepted = matcher_.accept(token);
    if (auto* error = std::get_if<RequestError>(&accepted)) return named(std::move(*error));
    if (std::get<bool>(accepted)) return std::nullopt;
    return named({.kind = RequestError::Kind::failed,
                  .message = "the grammar does not allow the token that it allowed"});
  }

 private:
  RequestError named(RequestError error) const {
    error.param = param_;
    return error;
  }

  text::GrammarMatcher matcher_;
  ReasoningStart reasoning_;
  std::shared_ptr<const ReasoningTokens> tokens_;
  std::string param_;
};

text::GrammarSource grammar_source(const OutputConstraint& constraint) {
  return {grammar_kind(constraint.kind), constraint.text};
}

text::GrammarCompiler& grammars_of(const OutputFormat& format, const ServerModel& model) {
  if (model.grammars == nullptr) {
    bad_request(format.requested.param, "this model's output cannot be constrained");
  }
  return *model.grammars;
}

engine::ConstraintFactory make_factory(std::shared_ptr<const text::Grammar> grammar,
                                       const OutputFormat& format, const ServerModel& model) {
  const auto tokens = std::make_shared<ReasoningTokens>();
  tokens->eos = model.engine.options().eos_token_ids;
  ReasoningStart reasoning = format.reasoning;
  if (reasoning != ReasoningStart::none) {
    const std::optional<int32_t> open = model.tokenizer.token_to_id("<think>");
    const std::optional<int32_t> close = model.tokenizer.token_to_id("</think>");
    if (open && close) {
      tokens->open = *open;
      tokens->close = *close;
    } else {
      reasoning = ReasoningStart::none;  // this model has no such tags
    }
  }
  return [grammar = std::move(grammar), reasoning, tokens, param = format.requested.param] {
    return std::make_unique<GrammarConstraint>(grammar, reasoning, tokens, param);
  };
}

bool is_about_options(const RequestError& error) {
  return error.message.find("\"oneOf\"") != std::string::npos;
}

// Throws BadRequest that names the place of the first "oneOf" in a strict schema that the engine refuses.
void tell_overlap(const OutputFormat& format, const ServerModel& model) {
  const auto overlaps = [&](const Json& schema) {
    const auto compiled = grammars_of(format, model)
                              .compile({text::GrammarKind::kJsonSchema,
                                        to_text(ready_schema(schema, SchemaForm::exact).schema)});
    const auto* error = std::get_if<RequestError>(&compiled);
    return error != nullptr && is_about_options(*error);
  };
  for (const StrictSchema& strict : format.requested.strict) {
    const auto path = find_overlapping_options(strict.schema, overlaps);
    if (path) tell_left_out({{*path, "oneOf", "its options may overlap"}}, true, strict.name, strict.param);
  }
}

}  // namespace

std::optional<RequestedFormat> read_output_format(Fields& fields) {
  std::vector<RequestedFormat> found;
  if (const Json* value = fields.get("response_format")) {
    if (auto format = read_response_format(*value)) found.push_back(std::move(*format));
  }
  for (const auto& [name, kind] : kFormatFields) {
    if (const Json* value = fields.get(name)) found.push_back(make_format(kind, *value, fields.param(name)));
  }
  if (const Json* value = fields.get("structured_outputs")) read_structured_outputs(*value, found);
  if (found.size() > 1) {
    bad_request(found[1].param, "the output cannot follow both '{}' and '{}'", found[0].param,
                found[1].param);
  }
  if (found.empty()) return std::nullopt;
  return std::move(found.front());
}

std::optional<Json> schema_of(const RequestedFormat& format) {
  switch (format.constraint.kind) {
    case Kind::json_object:
      return Json{{"type", "object"}};
    case Kind::json_schema:
    case Kind::lenient_json_schema:
      break;
    default:
      return std::nullopt;
  }
  Json schema = Json::parse(format.constraint.text, nullptr, false);
  if (!schema.is_object()) return std::nullopt;
  return schema;
}

engine::ConstraintFactory find_output_format(const OutputFormat& format, const ServerModel& model) {
  const std::shared_ptr<const text::Grammar> grammar =
      grammars_of(format, model).find(grammar_source(format.requested.constraint));
  return grammar == nullptr ? nullptr : make_factory(grammar, format, model);
}

engine::ConstraintFactory compile_output_format(const OutputFormat& format, const ServerModel& model) {
  auto compiled = grammars_of(format, model).compile(grammar_source(format.requested.constraint));
  if (auto* error = std::get_if<RequestError>(&compiled)) {
    if (is_about_options(*error)) tell_overlap(format, model);
    error->param = format.requested.param;
    throw BadRequest(std::move(*error));
  }
  return make_factory(std::get<std::shared_ptr<const text::Grammar>>(std::move(compiled)), format, model);
}

}  // namespace chorale::server
