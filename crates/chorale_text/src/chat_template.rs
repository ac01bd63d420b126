//! Chat templates in the environment that transformers gives them.

use std::borrow::Cow;
use std::fmt;
use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, StringInput, ValueKind};
use minijinja::{context, escape_formatter, filters, Environment, Error, ErrorKind, Output, State, Value};
use minijinja_contrib::pycompat;
use serde_json::Map;

use crate::concatenation;
use crate::json_file::{self, kind_of, CONFIG};
use crate::python_json;

/// What one rendering may spend: about an instruction each, or 64 bytes of text. Qwen3's template takes some 200 per
/// message; all of it is spent in about a second.
const FUEL: u64 = 5_000_000;

/// The longest text that a template may give, in bytes: far more than any context holds.
const MAX_OUTPUT: usize = 64 << 20;

const NAME: &str = "chat template";
const NAME_WITH_TOOLS: &str = "chat template for tools";
const JINJA: &str = "chat_template.jinja";
const TOOLS_JINJA: &str = "additional_chat_templates/tool_use.jinja";

/// Special tokens that a template knows by these names.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Whether there is a template of its own for chats with tools.
    has_tool_template: bool,
    /// Variables that a request does not have to give.
    defaults: Value,
}

impl ChatTemplate {
    /// From the texts of `chat_template.jinja` and, for chats with tools, `additional_chat_templates/tool_use.jinja`,
    /// if there is the former, else from `chat_template` of `tokenizer_config.json`. None when neither has a
    /// template. The config also names the special tokens.
    pub fn load(
        jinja: Option<&[u8]>,
        tools_jinja: Option<&[u8]>,
        config_json: Option<&[u8]>,
    ) -> Result<Option<Self>, String> {
        let config = config_json.map(json_file::parse_config).transpose()?.unwrap_or_default();
        let in_config = format!("{CONFIG}: chat_template");
        let (source, place) = match jinja {
            Some(text) => (Some(text_of(text, JINJA)?), JINJA),
            None => (template_of_config(&config)?, in_config.as_str()),
        };
        let (with_tools, tools_place) = match (jinja, tools_jinja) {
            (Some(_), None) => (None, TOOLS_JINJA),
            (_, Some(text)) => (Some(text_of(text, TOOLS_JINJA)?), TOOLS_JINJA),
            (None, None) => (named_template(&config, "tool_use"), in_config.as_str()),
        };
        let Some(source) = source else { return Ok(None) };
        let mut loaded =
            Self::new(source, special_tokens(&config)).map_err(|error| format!("{place}: {error}"))?;
        if let Some(source) = with_tools {
            loaded.add_tool_template(&source).map_err(|error| format!("{tools_place}: {error}"))?;
        }
        Ok(Some(loaded))
    }

    fn add_tool_template(&mut self, source: &str) -> Result<(), String> {
        add_template(&mut self.environment, NAME_WITH_TOOLS, source)?;
        self.has_tool_template = true;
        Ok(())
    }

    pub fn new(source: String, special_tokens: Vec<(&'static str, Value)>) -> Result<Self, String> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| describe(&error))?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(call_method);
        environment.set_formatter(format_as_python);
        environment.add_filter("string", as_python_text);
        environment.add_filter("join", join_python_texts);
        environment.add_filter("pprint", pprint);
        environment.add_filter(concatenation::FILTER, concatenated);
        environment.add_filter("tojson", python_json::tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        add_template(&mut environment, NAME, &source)?;

        let none = Value::from(());
        let variables =
            [("tools", none.clone()), ("documents", none), ("add_generation_prompt", Value::from(false))];
        let defaults = Value::from_pairs(variables.into_iter().chain(special_tokens));
        Ok(Self { environment, has_tool_template: false, defaults })
    }

    /// Renders with the variables of a JSON object.
    pub fn render(&self, variables_json: &[u8]) -> Result<String, String> {
        let variables: Value = serde_json::from_slice(variables_json).map_err(|error| error.to_string())?;
        if variables.kind() != ValueKind::Map {
            return Err(format!("the variables are not an object but a {}", variables.kind()));
        }
        let has_tools =
            variables.get_attr("tools").is_ok_and(|tools| !tools.is_undefined() && !tools.is_none());
        let name = if has_tools && self.has_tool_template { NAME_WITH_TOOLS } else { NAME };
        let template = self.environment.get_template(name).map_err(|error| describe(&error))?;
        let mut output = BoundedWriter::default();
        let rendered =
            template.render_captured_to(context! { ..variables, ..self.defaults.clone() }, &mut output);
        if output.full {
            return Err(format!("the text is longer than {} MiB", MAX_OUTPUT >> 20));
        }
        rendered.map_err(|error| describe(&error))?;
        String::from_utf8(output.bytes).map_err(|error| error.to_string())
    }
}

fn add_template(environment: &mut Environment, name: &'static str, source: &str) -> Result<(), String> {
    let source = replace_generation_tags(source);
    if let Some(rewritten) = concatenation::with_python_texts(&source, environment.syntax()) {
        // What cannot be compiled is told about the source as it is.
        if environment.add_template_owned(name, rewritten).is_ok() {
            return Ok(());
        }
    }
    environment.add_template_owned(name, source.into_owned()).map_err(|error| describe(&error))
}

fn text_of(text: &[u8], place: &str) -> Result<String, String> {
    std::str::from_utf8(text).map(str::to_owned).map_err(|error| format!("{place}: {error}"))
}

/// One of the config's list of templates.
fn named_template(config: &Map<String, serde_json::Value>, name: &str) -> Option<String> {
    let named = config.get("chat_template")?.as_array()?;
    let entry = named.iter().find(|entry| entry["name"] == name)?;
    entry["template"].as_str().map(str::to_owned)
}

/// Python's text of a value where it is not Jinja's own.
fn python_text(value: &Value) -> Option<String> {
    match value.kind() {
        ValueKind::Bool => Some(if value.is_true() { "True" } else { "False" }.to_owned()),
        ValueKind::None => Some("None".to_owned()),
        ValueKind::Number if !value.is_integer() => {
            f64::try_from(value.clone()).ok().map(python_json::python_str)
        }
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            Some(python_json::with_python_exponents(&value.to_string()))
        }
        _ => None,
    }
}

/// What {{ value }} writes.
fn format_as_python(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match python_text(value) {
        Some(text) => out.write_str(&text).map_err(Error::from),
        None => escape_formatter(out, state, value),
    }
}

/// The filter `string`.
fn as_python_text(value: &Value) -> Value {
    match python_text(value) {
        Some(text) => Value::from(text),
        None if value.kind() == ValueKind::String => value.clone(),
        None => Value::from(value.to_string()),
    }
}

/// `~` of a list's items.
fn concatenated(values: Vec<Value>) -> String {
    // At once, as the engine does: what there is no memory for fails before it is begun.
    let mut out = String::with_capacity(values.iter().filter_map(Value::as_str).map(str::len).sum());
    for value in &values {
        match (value.as_str(), python_text(value)) {
            (Some(text), _) => out.push_str(text),
            (None, Some(text)) => out.push_str(&text),
            (None, None) => out.push_str(&value.to_string()),
        }
    }
    out
}

/// The filter `pprint`: Python's repr, on one line where it is short.
fn pprint(value: Value) -> String {
    const WIDTH: usize = 80;
    let in_a_list = python_json::with_python_exponents(&Value::from(vec![value.clone()]).to_string());
    let repr = &in_a_list[1..in_a_list.len() - 1];
    if repr.chars().count() <= WIDTH {
        return repr.to_owned();
    }
    python_json::with_python_exponents(&filters::pprint(&value))
}

/// The filter `join`, of values as {{ value }} writes them.
fn join_python_texts(
    state: &mut State,
    value: &Value,
    joiner: Option<StringInput<'_>>,
    attribute: Option<&str>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let has_texts = |item: &Value| item.kind() != ValueKind::String && python_text(item).is_some();
    let is_list = value.kind() == ValueKind::Seq && attribute.is_none() && !kwargs.has("attribute");
    if !is_list || !value.try_iter()?.any(|item| has_texts(&item)) {
        return filters::join(state, value, joiner, attribute, kwargs);
    }
    let texts: Vec<Value> = value.try_iter()?.map(|item| as_python_text(&item)).collect();
    filters::join(state, &Value::from(texts), joiner, attribute, kwargs)
}

fn template_of_config(config: &Map<String, serde_json::Value>) -> Result<Option<String>, String> {
    match config.get("chat_template") {
        None | Some(serde_json::Value::Null) => Ok(None),
        Some(serde_json::Value::String(source)) => Ok(Some(source.clone())),
        Some(serde_json::Value::Array(_)) => named_template(config, "default")
            .map(Some)
            .ok_or_else(|| format!("{CONFIG}: chat_template: none of the templates is named \"default\"")),
        Some(other) => {
            Err(format!("{CONFIG}: chat_template: expected a string or an array, found {}", kind_of(other)))
        }
    }
}

/// Those that the config sets, as a text or as an object with the text in "content".
fn special_tokens(config: &Map<String, serde_json::Value>) -> Vec<(&'static str, Value)> {
    SPECIAL_TOKENS
        .iter()
        .filter_map(|name| {
            let entry = config.get(*name)?;
            let text = entry.as_str().or_else(|| entry.get("content")?.as_str())?;
            Some((*name, Value::from(text)))
        })
        .collect()
}

/// {% generation %} ... {% endgeneration %} marks the assistant's tokens for training and has no effect on the text.
/// It opens a scope, as {% with %} does.
fn replace_generation_tags(source: &str) -> Cow<'_, str> {
    let mut result = String::new();
    let mut rest = source;
    while let Some(begin) = rest.find("{%") {
        let (before, tag) = rest.split_at(begin + 2);
        result.push_str(before);
        rest = tag;
        let word_begin = tag.len() - tag.trim_start_matches(['-', '+']).trim_start().len();
        let word = &tag[word_begin..];
        let (name, replacement) = if word.starts_with("endgeneration") {
            ("endgeneration", "endwith")
        } else if word.starts_with("generation") {
            ("generation", "with")
        } else {
            continue;
        };
        let after = &word[name.len()..];
        if after.trim_start().trim_start_matches(['-', '+']).starts_with("%}") {
            result.push_str(&tag[..word_begin]);
            result.push_str(replacement);
            rest = after;
        }
    }
    if result.is_empty() {
        return Cow::Borrowed(source);
    }
    result.push_str(rest);
    Cow::Owned(result)
}

/// Methods of Python's types.
fn call_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let (Some(text), [argument]) = (value.as_str(), args) {
        if let Some(affix) = argument.as_str() {
            match method {
                "removeprefix" => return Ok(Value::from(text.strip_prefix(affix).unwrap_or(text))),
                "removesuffix" => return Ok(Value::from(text.strip_suffix(affix).unwrap_or(text))),
                _ => {}
            }
        }
    }
    pycompat::unknown_method_callback(state, value, method, args)
}

/// A template's own refusal of its input.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: StringInput<'_>) -> Result<Value, Error> {
    let message = message.as_str().to_owned();
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// The local time, in a format of strftime.
fn strftime_now(format: &str) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}")))
}

/// A plain sentence: what the template itself raised, or what is wrong and where.
fn describe(error: &Error) -> String {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(current) = cause {
        if let Some(raised) = current.downcast_ref::<Raised>() {
            return raised.0.clone();
        }
        cause = current.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return "it takes too many steps".to_owned();
    }
    let mut text = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    if let Some(line) = error.line() {
        text.push_str(&format!(" (line {line})"));
    }
    text
}

/// Takes up to MAX_OUTPUT bytes.
#[derive(Default)]
struct BoundedWriter {
    bytes: Vec<u8>,
    full: bool,
}

impl io::Write for BoundedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > MAX_OUTPUT - self.bytes.len() {
            self.full = true;
            return Err(io::Error::from(io::ErrorKind::WriteZero));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::replace_generation_tags;

    #[test]
    fn generation_tags_become_scopes() {
        assert_eq!(
            replace_generation_tags("a{%- generation -%}b{% endgeneration%}c{%generation +%}"),
            "a{%- with -%}b{% endwith%}c{%with +%}"
        );
    }

    #[test]
    fn other_tags_stay() {
        for source in ["", "{% if generation %}{% endif %}", "{% generations %}", "{%", "generation %}"] {
            assert_eq!(replace_generation_tags(source), source);
        }
    }
}
