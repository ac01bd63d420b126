//! Where a text may be cut, so that its pieces, tokenized one after the other, give the tokens of the whole.
//!
//! Tokenizing takes some eighty times the memory of its text, so long texts go through it in pieces. A cut is a
//! boundary between pre-tokens that is known to be one in the whole text: pre-tokens are found from left to right, and
//! what a match looks at ends with the run of characters that it is in. So boundaries far enough from the end of a
//! window are those of the text, and the next window begins at one of them.

use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{
    NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizerWrapper,
    SplitDelimiterBehavior, Tokenizer as HfTokenizer,
};

/// Bytes that are tokenized together, where the text has a place to cut at.
pub const WINDOW: usize = 64 << 10;
/// The longest stretch in which such a place is looked for.
pub const MAX_WINDOW: usize = 1 << 20;

/// Pre-tokens that are left before the end of a window where white space does not tell where matches end.
const UNSURE_PRE_TOKENS: usize = 64;

/// The composed form of a text has at least a third of its bytes: Hangul syllables of three letters are that.
const COMPOSITION: usize = 3;

/// Exists for tokenizers of which the above is known.
pub struct Cutter {
    longest_token: usize,
    longest_added: usize,
}

impl Cutter {
    pub fn new(tokenizer: &HfTokenizer, longest_token: usize) -> Option<Self> {
        let keeps_all = matches!(tokenizer.get_normalizer(), None | Some(NormalizerWrapper::NFC(_)))
            && tokenizer.get_pre_tokenizer().is_some_and(is_local)
            && (0..=u8::MAX).all(|byte| has_byte(tokenizer, byte));
        let added = tokenizer.get_added_tokens_decoder();
        let looks_around = added.values().any(|token| token.single_word || token.lstrip || token.rstrip);
        if !keeps_all || looks_around {
            return None;
        }
        let longest_added = added.values().map(|token| token.content.len()).max().unwrap_or(0);
        Some(Self { longest_token: longest_token.max(1), longest_added })
    }

    /// No text of so many bytes has fewer tokens.
    pub fn fewest_tokens(&self, bytes: usize) -> usize {
        bytes / (COMPOSITION * self.longest_token)
    }

    /// The last place in a window of a longer text that may be cut at.
    pub fn last_cut(&self, window: &str, pre_tokens: &PreTokenizedString) -> Option<usize> {
        let splits = pre_tokens.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let begins: Vec<usize> = splits.iter().map(|(_, offsets, _)| offsets.0).collect();
        let sure = match sure_end(window) {
            Some(end) => end,
            None if window.len() >= MAX_WINDOW => {
                begins.get(begins.len().checked_sub(UNSURE_PRE_TOKENS)?).copied()?
            }
            None => return None,
        };
        let most = sure.min(window.len().saturating_sub(self.longest_added));
        begins.into_iter().rev().find(|&at| at > 0 && at <= most && stands_alone(&window[at..]))
    }
}

/// Before two stretches of white space, each followed by something else: no match looks beyond that many.
fn sure_end(window: &str) -> Option<usize> {
    let mut transitions = 0;
    let mut after_is_text = false;
    let mut in_space = false;
    for (at, character) in window.char_indices().rev() {
        let is_space = character.is_whitespace();
        if is_space && after_is_text && !in_space {
            in_space = true;
        } else if !is_space && in_space {
            in_space = false;
            transitions += 1;
            if transitions == 2 {
                return Some(at + character.len_utf8());
            }
        }
        if !is_space {
            after_is_text = true;
        }
        if at < window.len() / 2 {
            return None;
        }
    }
    None
}

/// Whether the first character never becomes one with what stands before it.
fn stands_alone(text: &str) -> bool {
    text.chars().next().is_some_and(|c| {
        matches!(c, '\0'..='\u{2FF}' | '\u{400}'..='\u{482}' | '\u{3041}'..='\u{3096}' | '\u{30A1}'..='\u{30FA}'
            | '\u{3400}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7A3}')
    })
}

/// Whether it splits a text once, by what follows alone, and keeps every byte.
fn is_local(pre_tokenizer: &PreTokenizerWrapper) -> bool {
    let parts = match pre_tokenizer {
        PreTokenizerWrapper::Sequence(sequence) => sequence.as_ref(),
        one => std::slice::from_ref(one),
    };
    let mut splitting = 0;
    parts.iter().all(|part| match part {
        PreTokenizerWrapper::ByteLevel(bytes) => {
            splitting += usize::from(bytes.use_regex);
            !bytes.add_prefix_space && splitting <= 1
        }
        PreTokenizerWrapper::Split(split) => {
            splitting += 1;
            splitting == 1
                && split.behavior == SplitDelimiterBehavior::Isolated
                && !split.invert
                && matches!(&split.pattern, SplitPattern::Regex(pattern) if !looks_back(pattern))
        }
        _ => false,
    })
}

fn looks_back(pattern: &str) -> bool {
    let words = ["(?<", "\\b", "\\B", "\\A", "\\G", "\\K", "(?m", "(?s", "\\1"];
    let anchored = pattern.match_indices('^').any(|(at, _)| !pattern[..at].ends_with(['[', '\\']));
    anchored || words.iter().any(|word| pattern.contains(word))
}

fn has_byte(tokenizer: &HfTokenizer, byte: u8) -> bool {
    let character = crate::tokenizer::character_of(byte);
    tokenizer.token_to_id(character.encode_utf8(&mut [0; 4])).is_some()
}

#[cfg(test)]
mod tests {
    use super::{looks_back, stands_alone, sure_end};

    #[test]
    fn what_looks_back_is_known() {
        for pattern in ["(?<=a)b", r"\bword", "^a", r"a\Gb"] {
            assert!(looks_back(pattern), "{pattern}");
        }
        for pattern in [r"[^\r\n\p{L}]?\p{L}+|\s+(?!\S)", r"\^+", r"\s+$"] {
            assert!(!looks_back(pattern), "{pattern}");
        }
    }

    #[test]
    fn two_stretches_of_white_space_are_left() {
        assert_eq!(sure_end("aaaaaaaaaaaaaa  b c"), Some(14));
        assert_eq!(sure_end("aaaaaaaaaaaaaa  b c  "), Some(14));
        assert_eq!(sure_end("aaaaaaaaaaaaaaaaaaa b"), None);
        assert_eq!(sure_end("a b c dddddddddddddddd"), None);
    }

    #[test]
    fn marks_do_not_stand_alone() {
        assert!(stands_alone(" x") && stands_alone("中") && stands_alone("\n"));
        assert!(!stands_alone("\u{301}") && !stands_alone("\u{1175}") && !stands_alone(""));
    }
}
