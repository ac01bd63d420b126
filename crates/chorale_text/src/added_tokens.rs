//! `added_tokens_decoder` of `tokenizer_config.json`: tokens, and properties of tokens, that may not stand in
//! `tokenizer.json`.

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use crate::json_file::{kind_of, CONFIG};

/// Adds what the config lists to the tokenizer. A token that is there already takes the config's properties; a new
/// one must come out under the id that the config gives it.
pub fn add_from_config(tokenizer: &mut Tokenizer, config: &Map<String, Value>) -> Result<(), String> {
    let listed = parse(config)?;
    tokenizer
        .add_tokens(listed.iter().map(|(_, token)| token.clone()))
        .map_err(|error| format!("{CONFIG}: added_tokens_decoder: {error}"))?;
    for (id, token) in &listed {
        let found = tokenizer.token_to_id(&token.content);
        if found != Some(*id) {
            return Err(format!(
                "{CONFIG}: added_tokens_decoder gives {:?} the id {id}, but with tokenizer.json it has {}",
                token.content,
                found.map_or("none".to_owned(), |id| format!("the id {id}")),
            ));
        }
    }
    Ok(())
}

/// The listed tokens in the order of their ids.
fn parse(config: &Map<String, Value>) -> Result<Vec<(u32, AddedToken)>, String> {
    let entries = match config.get("added_tokens_decoder") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(entries)) => entries,
        Some(other) => {
            return Err(format!(
                "{CONFIG}: added_tokens_decoder: expected an object, found {}",
                kind_of(other)
            ))
        }
    };
    let mut tokens = entries
        .iter()
        .map(|(key, entry)| {
            let id = key
                .parse::<u32>()
                .map_err(|_| format!("{CONFIG}: added_tokens_decoder: {key:?} is not a token id"))?;
            Ok((id, parse_entry(key, entry)?))
        })
        .collect::<Result<Vec<_>, String>>()?;
    tokens.sort_by_key(|(id, _)| *id);
    Ok(tokens)
}

fn parse_entry(id: &str, entry: &Value) -> Result<AddedToken, String> {
    let content = match entry.get("content") {
        Some(Value::String(content)) if !content.is_empty() => content.clone(),
        _ => {
            return Err(format!(
                "{CONFIG}: added_tokens_decoder: the token with id {id} has no text in \"content\""
            ))
        }
    };
    let flag = |name: &str, default: bool| {
        match entry.get(name) {
        None => Ok(default),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => Err(format!(
            "{CONFIG}: added_tokens_decoder: {name} of the token with id {id}: expected true or false, found {}",
            kind_of(other)
        )),
    }
    };
    let special = flag("special", false)?;
    Ok(AddedToken::from(content, special)
        .single_word(flag("single_word", false)?)
        .lstrip(flag("lstrip", false)?)
        .rstrip(flag("rstrip", false)?)
        .normalized(flag("normalized", !special)?))
}
