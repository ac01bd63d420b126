//! The template filter `tojson` as transformers defines it: Python's `json.dumps`, not HTML-safe.

use std::fmt::Write;

use minijinja::value::{from_args, Kwargs, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Error, ErrorKind, State, Value};

/// Deeper values are refused; JSON from requests is at most 128 deep.
const MAX_DEPTH: usize = 256;

/// The widest indentation, in characters.
const MAX_INDENT: usize = 256;

/// `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`
pub fn tojson(state: &State, value: &Value, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    type Arguments = (Option<Value>, Option<Value>, Option<Value>, Option<Value>, Kwargs);
    let args = args.into_values();
    let (ensure_ascii, indent, separators, sort_keys, kwargs): Arguments = from_args(&args)?;
    let argument = |positional: Option<Value>, name: &str| -> Result<Option<Value>, Error> {
        let value = match positional {
            Some(value) => Some(value),
            None => kwargs.get::<Option<Value>>(name)?,
        };
        Ok(value.filter(|value| !value.is_none()))
    };
    let ensure_ascii = argument(ensure_ascii, "ensure_ascii")?;
    let indent = argument(indent, "indent")?.map(parse_indent).transpose()?;
    let separators = argument(separators, "separators")?;
    let sort_keys = argument(sort_keys, "sort_keys")?;
    kwargs.assert_all_used()?;

    let (item_separator, key_separator) = match separators {
        Some(pair) => parse_separators(&pair)?,
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let mut writer = Writer {
        state,
        out: String::new(),
        paid: 0,
        ensure_ascii: ensure_ascii.is_some_and(|value| value.is_true()),
        sort_keys: sort_keys.is_some_and(|value| value.is_true()),
        indent,
        item_separator,
        key_separator,
    };
    writer.write(value, 0)?;
    Ok(writer.out)
}

/// A number of spaces, or the text itself.
fn parse_indent(indent: Value) -> Result<String, Error> {
    let text = match indent.as_str() {
        Some(text) if text.len() <= MAX_INDENT => Some(text.to_owned()),
        Some(_) => None,
        None => i64::try_from(indent)
            .ok()
            .map(|width| usize::try_from(width).unwrap_or(0))
            .filter(|width| *width <= MAX_INDENT)
            .map(|width| " ".repeat(width)),
    };
    text.ok_or_else(|| invalid(format!("tojson: indent must be a text or a number up to {MAX_INDENT}")))
}

fn parse_separators(pair: &Value) -> Result<(String, String), Error> {
    let texts = pair.try_iter()?.map(|text| text.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>();
    match texts.as_deref() {
        Some([item, key]) => Ok((item.clone(), key.clone())),
        _ => Err(invalid("tojson: separators must be two texts".to_owned())),
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

struct Writer<'a, 'template, 'env> {
    state: &'a State<'template, 'env>,
    out: String,
    /// Bytes of `out` that fuel was consumed for.
    paid: usize,
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
}

impl Writer<'_, '_, '_> {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.pay()?;
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => write_number(&mut self.out, value)?,
            ValueKind::String => self.write_text(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.write_array(value, depth)?,
            ValueKind::Map => self.write_object(value, depth)?,
            other => return Err(invalid(format!("tojson: {other} is not JSON serializable"))),
        }
        Ok(())
    }

    fn write_array(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        check_depth(depth)?;
        self.out.push('[');
        let mut empty = true;
        for item in value.try_iter()? {
            self.begin_item(empty, depth);
            empty = false;
            self.write(&item, depth + 1)?;
        }
        self.end_container(']', empty, depth);
        Ok(())
    }

    fn write_object(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        check_depth(depth)?;
        let mut entries = value
            .try_iter()?
            .map(|key| Ok((key_text(&key)?, value.get_item(&key)?)))
            .collect::<Result<Vec<_>, Error>>()?;
        if self.sort_keys {
            entries.sort_by(|a, b| a.0.cmp(&b.0));
        }
        self.out.push('{');
        for (i, (key, item)) in entries.iter().enumerate() {
            self.begin_item(i == 0, depth);
            self.write_text(key);
            self.out.push_str(&self.key_separator);
            self.write(item, depth + 1)?;
        }
        self.end_container('}', entries.is_empty(), depth);
        Ok(())
    }

    fn begin_item(&mut self, first: bool, depth: usize) {
        if !first {
            self.out.push_str(&self.item_separator);
        }
        self.new_line(depth + 1);
    }

    fn end_container(&mut self, bracket: char, empty: bool, depth: usize) {
        if !empty {
            self.new_line(depth);
        }
        self.out.push(bracket);
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn write_text(&mut self, text: &str) {
        self.out.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '\0'..='\u{1f}' => self.write_escape(character),
                '\u{7f}'.. if self.ensure_ascii && character != '\u{7f}' => self.write_escape(character),
                _ => self.out.push(character),
            }
        }
        self.out.push('"');
    }

    /// \uXXXX, twice for characters beyond U+FFFF.
    fn write_escape(&mut self, character: char) {
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a String does not fail.
            let _ = write!(self.out, "\\u{unit:04x}");
        }
    }

    /// Fuel for what was written since the last time; the engine itself only sees the finished text.
    fn pay(&mut self) -> Result<(), Error> {
        let fuel = 1 + (self.out.len() - self.paid) as u64 / 64;
        self.paid = self.out.len();
        self.state.consume_fuel(fuel)
    }
}

fn check_depth(depth: usize) -> Result<(), Error> {
    if depth < MAX_DEPTH {
        return Ok(());
    }
    Err(invalid(format!("tojson: the value is nested more than {MAX_DEPTH} deep")))
}

/// Keys of other types become texts, as in Python.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(key.is_true().to_string()),
        ValueKind::Number => {
            let mut text = String::new();
            write_number(&mut text, key)?;
            Ok(text)
        }
        other => Err(invalid(format!("tojson: a key cannot be {other}"))),
    }
}

fn write_number(out: &mut String, number: &Value) -> Result<(), Error> {
    if number.is_integer() {
        // Writing to a String does not fail.
        let _ = write!(out, "{number}");
        return Ok(());
    }
    let value = f64::try_from(number.clone())?;
    out.push_str(&python_float(value));
    Ok(())
}

/// Python's `str` of a float, which is `json.dumps`'s but for what JSON does not have.
pub fn python_str(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    python_float(value)
}

/// The text of a list or map with the exponents of its floats as Python writes them; texts between quotes stay.
pub fn with_python_exponents(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut quote = None;
    let mut previous = ' ';
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        out.push(character);
        match quote {
            Some(_) if character == '\\' => out.extend(characters.next()),
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None if character == '\'' || character == '"' => quote = Some(character),
            None if character == 'e' && previous.is_ascii_digit() => {
                let is_negative = characters.next_if_eq(&'-').is_some();
                let mut digits = String::new();
                while let Some(digit) = characters.next_if(char::is_ascii_digit) {
                    digits.push(digit);
                }
                let sign = if is_negative { '-' } else { '+' };
                // Writing to a String does not fail.
                let _ = write!(out, "{sign}{digits:0>2}");
            }
            None => {}
        }
        previous = character;
    }
    out
}

/// Python's repr: the shortest digits that read back, an exponent of at least two digits below 1e-4 and from 1e16 on.
/// Rust's debug format has the same digits and the same two limits.
fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let text = format!("{value:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => match exponent.strip_prefix('-') {
            Some(exponent) => format!("{digits}e-{exponent:0>2}"),
            None => format!("{digits}e+{exponent:0>2}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{python_float, with_python_exponents};

    #[test]
    fn floats_look_like_pythons() {
        for (value, expected) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e300, "1.25e+300"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(python_float(value), expected);
        }
    }

    #[test]
    fn exponents_outside_of_texts_are_pythons() {
        for (text, expected) in [
            ("[1e-7, -2.5e16, 1e-10, 1e300]", "[1e-07, -2.5e+16, 1e-10, 1e+300]"),
            (r#"['1e-7', "it's 1e-7", 'q\'1e-7', 1e-7]"#, r#"['1e-7', "it's 1e-7", 'q\'1e-7', 1e-07]"#),
            (r"{'a 1e5': (1, 1e-7)}", r"{'a 1e5': (1, 1e-07)}"),
            ("[True, None, 'x']", "[True, None, 'x']"),
            ("", ""),
        ] {
            assert_eq!(with_python_exponents(text), expected);
        }
    }
}
