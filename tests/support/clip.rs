//! CLIP's real tokenizer from OpenAI's file of merges, and the way back from ids to text.
#![allow(dead_code)]

use std::{collections::HashMap, io::Read, sync::LazyLock};

use sd_worker_rbee::diffusion::ClipTokenizer;
use tokenizers::{NormalizedString, Normalizer, normalizers::NFC};

/// Entries of the vocabulary; the last two are start and end.
pub const WORDS: usize = 49408;
pub const START: u32 = 49406;
pub const END: u32 = 49407;

/// Found from this file: a fuzz target outside of the package uses it too.
const MERGES: &[u8] = include_bytes!("../../assets/clip/bpe_simple_vocab_16e6.txt.gz");

struct Clip {
    words: Vec<String>,
    letters: Vec<char>,
    tokenizer: ClipTokenizer,
}

static CLIP: LazyLock<Clip> = LazyLock::new(|| {
    let mut text = String::new();
    flate2::read::GzDecoder::new(MERGES).read_to_string(&mut text).unwrap();
    // The first line is a comment, and CLIP uses as many merges as fill its vocabulary.
    let merges: Vec<&str> = text.lines().skip(1).take(49152 - 256 - 2).collect();
    let letters = letters();
    let mut words: Vec<String> = letters.iter().map(char::to_string).collect();
    words.extend(letters.iter().map(|letter| format!("{letter}</w>")));
    words.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    words.extend(["<|startoftext|>", "<|endoftext|>"].map(String::from));
    assert_eq!(words.len(), WORDS);
    let folder = tempfile::tempdir().unwrap();
    let vocabulary: HashMap<&str, usize> = words.iter().map(String::as_str).zip(0..).collect();
    std::fs::write(folder.path().join("vocab.json"), serde_json::to_vec(&vocabulary).unwrap()).unwrap();
    std::fs::write(folder.path().join("merges.txt"), format!("#version: 0.2\n{}\n", merges.join("\n")))
        .unwrap();
    let tokenizer = ClipTokenizer::load(folder.path(), 77, WORDS).unwrap();
    Clip { words, letters, tokenizer }
});

/// GPT-2's printable characters for bytes, in the vocabulary's order.
fn letters() -> Vec<char> {
    let printable = (33u8..=126).chain(161..=172).chain(174..=255).map(char::from);
    printable.chain((256..=323).filter_map(char::from_u32)).collect()
}

pub fn tokenizer() -> &'static ClipTokenizer {
    &CLIP.tokenizer
}

/// The text that ids stand for, a space after each word.
pub fn decoded<'a>(ids: impl Iterator<Item = &'a u32>) -> String {
    let printable: Vec<u8> = (33u8..=126).chain(161..=172).chain(174..=255).collect();
    let others = (0..=255).filter(|byte| !printable.contains(byte));
    let bytes: Vec<u8> = printable.iter().copied().chain(others).collect();
    let byte_of: HashMap<char, u8> = CLIP.letters.iter().copied().zip(bytes).collect();
    let mut out = Vec::new();
    for id in ids {
        let word = &CLIP.words[*id as usize];
        let stem = word.strip_suffix("</w>").unwrap_or(word);
        out.extend(stem.chars().map(|c| byte_of[&c]));
        if stem.len() < word.len() {
            out.push(b' ');
        }
    }
    String::from_utf8(out).unwrap()
}

/// Composed and in lower case, as CLIP reads it.
pub fn normalised(text: &str) -> String {
    let mut text = NormalizedString::from(text);
    NFC.normalize(&mut text).unwrap();
    text.get().chars().flat_map(char::to_lowercase).collect()
}
