//! The vocabulary that every CLIP was trained with (`assets/clip/README.md`).

use std::{io::Read, path::Path};

use flate2::read::GzDecoder;

use super::Vocabulary;
use crate::diffusion::DiffusionError;

const MERGES: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/clip/bpe_simple_vocab_16e6.txt.gz"));
/// Merges in use; the list goes on.
const MERGES_USED: usize = 48_894;
/// What ends a word.
const WORD_END: &str = "</w>";

/// The ids of all 49408 tokens, and the merges that lead to them, the most frequent first.
///
/// # Errors
/// When the list that is built in is damaged; `label` names it.
pub fn read(label: &Path) -> Result<Vocabulary, DiffusionError> {
    let mut text = String::new();
    GzDecoder::new(MERGES)
        .read_to_string(&mut text)
        .map_err(|source| DiffusionError::Read { file: label.to_owned(), source })?;
    let merges: Vec<(String, String)> = text
        .lines()
        .skip(1)
        .take(MERGES_USED)
        .filter_map(|line| line.split_once(' '))
        .map(|(left, right)| (left.to_owned(), right.to_owned()))
        .collect();
    let letters = letters();
    let ends = letters.iter().map(|letter| format!("{letter}{WORD_END}"));
    let merged = merges.iter().map(|(left, right)| format!("{left}{right}"));
    let marks = ["<|startoftext|>", "<|endoftext|>"].map(str::to_owned);
    let words = letters.iter().map(char::to_string).chain(ends).chain(merged).chain(marks).zip(0..).collect();
    Ok(Vocabulary { words, merges })
}

/// Printable names of the 256 bytes (GPT-2's): those that print stand for themselves and come first, the others are
/// named by the characters from 256 on.
fn letters() -> Vec<char> {
    let prints = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let others = (0..256).filter(|byte| !prints(byte)).count() as u32;
    (0..256).filter(prints).chain(256..256 + others).filter_map(char::from_u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vocabulary_has_the_published_ids() {
        let Vocabulary { words, merges } = read(Path::new("built in")).unwrap();
        assert_eq!((words.len(), merges.len()), (49408, MERGES_USED));
        for (word, id) in
            [("!", 0), ("a</w>", 320), ("cat</w>", 2368), ("photo</w>", 1125), ("<|startoftext|>", 49406)]
        {
            assert_eq!(words[word], id, "{word}");
        }
    }
}
