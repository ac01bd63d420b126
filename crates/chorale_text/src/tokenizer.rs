//! A byte-level BPE tokenizer with the bytes of every token at hand.

use serde::Deserialize;
use tokenizers::{
    DecoderWrapper, Model, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    Tokenizer as HfTokenizer,
};

use crate::added_tokens;
use crate::json_file;
use crate::pieces::{Cutter, MAX_WINDOW, WINDOW};

const FILE: &str = "tokenizer.json";

/// Ids from here on are taken for an error in the file: the largest vocabularies in use have some 260,000 tokens.
const MAX_TOKENS: u32 = 1 << 24;

pub struct Tokenizer {
    inner: HfTokenizer,
    tokens: TokenTable,
    /// None: texts are tokenized as a whole.
    cutter: Option<Cutter>,
}

/// The tokens of the first bytes of a text.
#[derive(Default)]
pub struct Piece {
    pub ids: Vec<u32>,
    pub bytes: usize,
}

impl Tokenizer {
    /// From the texts of `tokenizer.json` and, where there is one, `tokenizer_config.json`. Errors begin with the
    /// file's name.
    pub fn new(tokenizer_json: &[u8], config_json: Option<&[u8]>) -> Result<Self, String> {
        let mut inner =
            HfTokenizer::from_bytes(tokenizer_json).map_err(|error| format!("{FILE}: {error}"))?;
        check_ids(&inner)?;
        check_listed_ids(&inner, tokenizer_json)?;
        let size = inner.get_vocab_size(true);
        if let Some(text) = config_json {
            added_tokens::add_from_config(&mut inner, &json_file::parse_config(text)?)?;
        }
        if inner.get_vocab_size(true) != size {
            check_ids(&inner)?;
        }
        // The file may hold settings of the last training run; requests are never cut or padded here.
        inner.with_truncation(None).map_err(|error| format!("{FILE}: {error}"))?;
        inner.with_padding(None);
        check_decoder(inner.get_decoder())?;
        let tokens = TokenTable::new(&inner)?;
        let cutter = Cutter::new(&inner, tokens.longest());
        Ok(Self { inner, tokens, cutter })
    }

    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, String> {
        let encoding = self.inner.encode_fast(text, add_special_tokens).map_err(|error| error.to_string())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// No text of so many bytes has fewer tokens.
    pub fn fewest_tokens(&self, bytes: usize) -> usize {
        self.cutter.as_ref().map_or(0, |cutter| cutter.fewest_tokens(bytes))
    }

    /// The tokens of the beginning of a text, such that those of all pieces are those of the whole; special tokens
    /// that the post-processor would add are left out. Without `control_tokens` the text of an added token is text
    /// as any other. No bytes: the text goes on without a break for longer than a piece may be.
    pub fn encode_piece(&self, text: &str, control_tokens: bool) -> Result<Piece, String> {
        let Some(cutter) = &self.cutter else {
            return self.whole(text, control_tokens);
        };
        let mut size = WINDOW;
        while size < text.len() {
            let window = &text[..floor_char_boundary(text, size)];
            let mut pre_tokens = self.pre_tokenize(window, control_tokens)?;
            if let Some(cut) = cutter.last_cut(window, &pre_tokens) {
                self.tokenize(&mut pre_tokens)?;
                return Ok(Piece { ids: ids_before(cut, &pre_tokens), bytes: cut });
            }
            if size >= MAX_WINDOW {
                return Ok(Piece::default());
            }
            size = MAX_WINDOW.min(size * 4);
        }
        self.whole(text, control_tokens)
    }

    /// Whether the post-processor adds tokens of its own, so that a text's are not those of its pieces.
    pub fn adds_special_tokens(&self) -> bool {
        use tokenizers::PostProcessor;
        self.inner.get_post_processor().is_some_and(|post_processor| post_processor.added_tokens(false) > 0)
    }

    fn whole(&self, text: &str, control_tokens: bool) -> Result<Piece, String> {
        let mut pre_tokens = self.pre_tokenize(text, control_tokens)?;
        self.tokenize(&mut pre_tokens)?;
        Ok(Piece { ids: ids_before(text.len(), &pre_tokens), bytes: text.len() })
    }

    fn pre_tokenize(&self, text: &str, control_tokens: bool) -> Result<PreTokenizedString, String> {
        let normalizer = self.inner.get_normalizer();
        let mut pre_tokens = if control_tokens {
            self.inner.get_added_vocabulary().extract_and_normalize(normalizer, text)
        } else {
            let mut plain = PreTokenizedString::from(text);
            plain
                .normalize(|part| normalizer.map_or(Ok(()), |normalizer| normalizer.normalize(part)))
                .map_err(|error| error.to_string())?;
            plain
        };
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pre_tokens).map_err(|error| error.to_string())?;
        }
        Ok(pre_tokens)
    }

    fn tokenize(&self, pre_tokens: &mut PreTokenizedString) -> Result<(), String> {
        let model = self.inner.get_model();
        model.tokenize_in_pretokenized(pre_tokens, None).map_err(|error| error.to_string())
    }

    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String, String> {
        self.inner.decode(ids, skip_special_tokens).map_err(|error| error.to_string())
    }

    /// One more than the highest id.
    pub fn vocab_size(&self) -> u32 {
        self.tokens.len()
    }

    /// What the token contributes to the bytes of a decoded text; nothing for an id that is no token.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.tokens.bytes(id)
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.tokens.is_special(id)
    }

    /// Whether the token is for control rather than text: a special one, or an added one that is written as a tag.
    pub fn is_control(&self, id: u32) -> bool {
        self.tokens.is_special(id)
            || self
                .inner
                .get_added_vocabulary()
                .get_added_tokens_decoder()
                .get(&id)
                .is_some_and(|token| token.content.starts_with('<') && token.content.ends_with('>'))
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
}

/// Of the splits that end at `cut` or before.
fn ids_before(cut: usize, pre_tokens: &PreTokenizedString) -> Vec<u32> {
    pre_tokens
        .get_splits(OffsetReferential::Original, OffsetType::Byte)
        .into_iter()
        .take_while(|(_, offsets, _)| offsets.1 <= cut)
        .flat_map(|(_, _, tokens)| tokens.as_deref().unwrap_or_default())
        .map(|token| token.id)
        .collect()
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// Every token's bytes, end to end.
struct TokenTable {
    bytes: Vec<u8>,
    /// Where the token after this one begins; the first begins at 0.
    ends: Vec<usize>,
    special: Vec<bool>,
}

impl TokenTable {
    fn new(tokenizer: &HfTokenizer) -> Result<Self, String> {
        let highest = tokenizer.get_vocab(true).into_values().max();
        let size = highest.map_or(0, |id| u64::from(id) + 1);
        if size > u64::from(MAX_TOKENS) {
            return Err(format!("{FILE}: the token id {} is out of range", size - 1));
        }
        let byte_of = ByteAlphabet::new();
        let mut table = Self {
            bytes: Vec::new(),
            ends: Vec::with_capacity(size as usize),
            special: Vec::with_capacity(size as usize),
        };
        for id in 0..size as u32 {
            let token = tokenizer.id_to_token(id);
            if let Some(token) = &token {
                byte_of.append_bytes(token, &mut table.bytes);
            }
            table.ends.push(table.bytes.len());
            table
                .special
                .push(token.is_some_and(|token| tokenizer.get_added_vocabulary().is_special_token(&token)));
        }
        Ok(table)
    }

    /// The most bytes that one token stands for.
    fn longest(&self) -> usize {
        (0..self.len()).map(|id| self.bytes(id).len()).max().unwrap_or(0)
    }

    fn len(&self) -> u32 {
        self.ends.len() as u32
    }

    fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else {
            return &[];
        };
        let begin = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[begin..end]
    }

    fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }
}

/// The character that stands for a byte in a byte-level vocabulary: the printable ones of Latin-1 for themselves, the
/// other bytes in order from U+0100 on.
pub fn character_of(byte: u8) -> char {
    let is_printable = |byte: u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    if is_printable(byte) {
        return char::from(byte);
    }
    let shifted = (0..byte).filter(|&lower| !is_printable(lower)).count() as u32;
    char::from_u32(0x100 + shifted).unwrap_or_default()
}

/// The bytes by these characters.
struct ByteAlphabet {
    byte_of: [Option<u8>; 0x200],
}

impl ByteAlphabet {
    fn new() -> Self {
        let mut byte_of = [None; 0x200];
        for byte in 0..=u8::MAX {
            byte_of[character_of(byte) as usize] = Some(byte);
        }
        Self { byte_of }
    }

    /// A token with a character outside the alphabet stands for its own UTF-8, as in the ByteLevel decoder.
    fn append_bytes(&self, token: &str, bytes: &mut Vec<u8>) {
        let begin = bytes.len();
        for character in token.chars() {
            match self.byte_of.get(character as usize) {
                Some(Some(byte)) => bytes.push(*byte),
                _ => {
                    bytes.truncate(begin);
                    bytes.extend_from_slice(token.as_bytes());
                    return;
                }
            }
        }
    }
}

fn shared_id(id: u32, one: &str, other: &str) -> String {
    let (first, second) = if one <= other { (one, other) } else { (other, one) };
    format!("{FILE}: the id {id} stands for two tokens, {first:?} and {second:?}")
}

/// Every token has an id of its own.
fn check_ids(tokenizer: &HfTokenizer) -> Result<(), String> {
    let vocabulary = tokenizer.get_vocab(true);
    let mut entries: Vec<(u32, &str)> = vocabulary.iter().map(|(token, id)| (*id, token.as_str())).collect();
    entries.sort_unstable();
    match entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(shared_id(pair[0].0, pair[0].1, pair[1].1)),
        None => Ok(()),
    }
}

/// The ids that the file itself gives to added tokens: the library would give a token another one where its own is
/// taken, and the model would then read something else than was written.
fn check_listed_ids(tokenizer: &HfTokenizer, tokenizer_json: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Listed {
        id: u32,
        content: String,
    }
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        added_tokens: Vec<Listed>,
    }
    let file: File = serde_json::from_slice(tokenizer_json).map_err(|error| format!("{FILE}: {error}"))?;
    for listed in &file.added_tokens {
        match tokenizer.id_to_token(listed.id) {
            Some(token) if token != listed.content => {
                return Err(shared_id(listed.id, &token, &listed.content));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Incremental detokenization needs tokens that stand for bytes, whatever surrounds them.
fn check_decoder(decoder: Option<&DecoderWrapper>) -> Result<(), String> {
    let is_byte_level = match decoder {
        Some(DecoderWrapper::ByteLevel(_)) => true,
        Some(DecoderWrapper::Sequence(sequence)) => {
            matches!(sequence.get_decoders(), [DecoderWrapper::ByteLevel(_)])
        }
        _ => false,
    };
    if is_byte_level {
        return Ok(());
    }
    let found = match decoder {
        None => "none".to_owned(),
        Some(decoder) => serde_json::to_value(decoder)
            .ok()
            .and_then(|value| value.get("type")?.as_str().map(str::to_owned))
            .unwrap_or_else(|| "another".to_owned()),
    };
    Err(format!("{FILE}: decoder: expected ByteLevel, found {found}"))
}
