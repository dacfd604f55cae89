//! Words of files in an `a1111` prompt: `embedding:name`, or the name alone.
//!
//! A name is found whatever its case, where no letter, digit or underscore is before or behind it. Behind `embedding:` it
//! may have the ending of a file.

use std::ops::Range;

/// How a name may be introduced.
const INTRODUCTION: &str = "embedding:";
/// What may be behind a name that was introduced.
const ENDINGS: [&str; 3] = [".safetensors", ".pt", ".bin"];

/// A word that a file adds to the text encoders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// In lower case.
    name: String,
    /// The ids of its vectors.
    pub ids: Range<u32>,
}

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part<'a> {
    /// Words of the vocabulary.
    Text(&'a str),
    /// The ids of a word of a file.
    Word(Range<u32>),
}

impl Word {
    /// A word of this name whose vectors have `count` ids from `first` on.
    pub fn new(name: &str, first: u32, count: u32) -> Self {
        Self { name: name.to_lowercase(), ids: first..first + count }
    }
}

/// Where a name of these is in `text`, introduced or alone: bytes, and its number among `names`, which are in lower case.
/// Longer names count first. Names that no text can have are not found.
pub fn find_names(text: &str, names: &[&str]) -> Vec<(Range<usize>, usize)> {
    let mut by_length: Vec<usize> = (0..names.len()).filter(|i| !names[*i].is_empty()).collect();
    by_length.sort_by_key(|i| std::cmp::Reverse(names[*i].len()));
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let is_start = !text[..at].chars().next_back().is_some_and(is_of_a_word);
        let hit = is_start
            .then(|| by_length.iter().find_map(|i| Some((length_of(rest, names[*i])?, *i))))
            .flatten();
        match hit {
            Some((length, name)) => {
                found.push((at..at + length, name));
                at += length;
            }
            None => at += rest.chars().next().map_or(1, char::len_utf8),
        }
    }
    found
}

/// The parts of a text.
pub(super) fn split<'a>(text: &'a str, words: &[Word]) -> Vec<Part<'a>> {
    let names: Vec<&str> = words.iter().map(|word| word.name.as_str()).collect();
    let (mut parts, mut behind) = (Vec::new(), 0);
    for (place, name) in find_names(text, &names) {
        parts.push(Part::Text(&text[behind..place.start]));
        parts.push(Part::Word(words[name].ids.clone()));
        behind = place.end;
    }
    parts.push(Part::Text(&text[behind..]));
    parts
}

/// Bytes of `name` at the beginning of `text`, with what introduces and ends it.
fn length_of(text: &str, name: &str) -> Option<usize> {
    let introduced = strip(text, INTRODUCTION);
    let rest = strip(introduced.unwrap_or(text), name)?;
    let ended = introduced.and_then(|_| ENDINGS.iter().find_map(|ending| strip(rest, ending)));
    let rest = ended.unwrap_or(rest);
    (!rest.chars().next().is_some_and(is_of_a_word)).then(|| text.len() - rest.len())
}

/// What is behind `start`, whatever the case of its letters.
fn strip<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    let mut rest = text.chars();
    for c in start.chars() {
        if !rest.next()?.to_lowercase().eq(c.to_lowercase()) {
            return None;
        }
    }
    Some(rest.as_str())
}

fn is_of_a_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let words =
            [Word::new("EasyNegative", 10, 2), Word::new("easy", 20, 1), Word::new("<cat-toy>", 30, 3)];
        split(text, &words)
            .into_iter()
            .filter(|part| *part != Part::Text(""))
            .map(|part| match part {
                Part::Text(text) => text.to_owned(),
                Part::Word(ids) => format!("{ids:?}"),
            })
            .collect()
    }

    #[test]
    fn a_word_is_found_by_its_name_alone_or_introduced() {
        assert_eq!(shown("a easynegative, b"), ["a ", "10..12", ", b"]);
        assert_eq!(shown("Embedding:EasyNegative.safetensors b"), ["10..12", " b"]);
        assert_eq!(shown("embedding:easy,EASY"), ["20..21", ",", "20..21"]);
        assert_eq!(shown("a <cat-toy>s"), ["a <cat-toy>s"]);
        assert_eq!(shown("a<cat-toy>"), ["a<cat-toy>"]);
        assert_eq!(shown("a <cat-toy>."), ["a ", "30..33", "."]);
        for text in ["uneasy", "easygoing", "easy_negative", "embedding:other", "", "\u{1f642} \u{e9}easy"] {
            assert_eq!(shown(text).concat(), text);
        }
    }
}
