//! Reading of `tokenizer_config.json`.

use serde_json::{Map, Value};

/// The name of the file that texts from here speak of.
pub const CONFIG: &str = "tokenizer_config.json";

/// Parses the text of `tokenizer_config.json`, which is an object.
pub fn parse_config(text: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(format!("{CONFIG}: expected an object, found {}", kind_of(&other))),
        Err(error) => Err(format!("{CONFIG}: {error}")),
    }
}

/// What people call the value's type.
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
