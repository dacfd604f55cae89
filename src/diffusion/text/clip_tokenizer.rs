//! CLIP's tokenizer: a prompt to as many token ids as the text encoder has positions.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tokenizers::{
    AddedToken, Encoding, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
    models::bpe::{BPE, BpeBuilder, Vocab},
    normalizers::{Lowercase, NFC, Replace, Sequence, replace::ReplacePattern},
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence as PreSequence,
        split::{Split, SplitPattern},
    },
    processors::roberta::RobertaProcessing,
};

use super::vocabulary;
use crate::diffusion::{
    DiffusionError,
    checkpoint::{ConfigFile, TokenizerFiles, limits::MAX_TOKENIZER_BYTES, read_limited},
};

/// Start and end of a prompt in every CLIP vocabulary.
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// Start, one word, end.
const MIN_LENGTH: usize = 3;
/// What CLIP takes for a word.
const WORDS: &str =
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Tokens of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// As many as the tokenizer's length, with start, end and padding.
    pub ids: Vec<u32>,
    /// The end of the prompt that did not fit.
    pub cut: Option<String>,
}

/// Words and how they are built up from letters.
pub struct Vocabulary {
    /// Ids of all tokens.
    pub words: HashMap<String, u32>,
    /// Pairs that are joined, the most frequent first.
    pub merges: Vec<(String, String)>,
}

impl Tokens {
    /// What was read of `prompt`, cut or padded to `length` ids; the `end` is kept.
    pub(super) fn of_length(
        length: usize,
        prompt: &str,
        encoding: &Encoding,
        end: u32,
        padding: u32,
    ) -> Self {
        let mut ids = encoding.get_ids().to_vec();
        let mut cut = None;
        if ids.len() > length {
            let start = encoding.get_offsets().get(length - 1).map_or(0, |(start, _)| *start);
            cut = Some(prompt.get(start..).unwrap_or(prompt).trim().to_owned());
            ids.truncate(length - 1);
            ids.push(end);
        }
        ids.resize(length, padding);
        Self { ids, cut }
    }
}

/// The tokenizer of a checkpoint.
pub struct ClipTokenizer {
    file: PathBuf,
    tokenizer: Tokenizer,
    start: u32,
    end: u32,
    padding: u32,
    length: usize,
}

impl ClipTokenizer {
    /// Reads `tokenizer.json`, or else `vocab.json` and `merges.txt`. `max_length` is the text encoder's number of
    /// positions and `vocab_size` its number of embeddings: an id beyond them would have none.
    pub fn load(folder: &Path, max_length: usize, vocab_size: usize) -> Result<Self, DiffusionError> {
        let whole = folder.join("tokenizer.json");
        let (file, tokenizer) = if whole.is_file() {
            (whole.clone(), from_whole(&whole)?)
        } else {
            let vocabulary = folder.join("vocab.json");
            let tokenizer = from_vocabulary(&vocabulary, &folder.join("merges.txt"))?;
            (vocabulary, tokenizer)
        };
        Self::new(file, tokenizer, Options::read(folder)?, max_length, vocab_size)
    }

    /// Reads a tokenizer from where a checkpoint has it; see [`Self::load`].
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn read(files: TokenizerFiles, max_length: usize, vocab_size: usize) -> Result<Self, DiffusionError> {
        match files {
            TokenizerFiles::Folder(folder) => Self::load(&folder, max_length, vocab_size),
            TokenizerFiles::ClipBuiltIn { label, padding } => {
                let words = vocabulary::read(&label)?;
                Self::from_words(label, words, padding, max_length, vocab_size)
            }
        }
    }

    /// CLIP's tokenizer of a vocabulary; `file` is the name for errors, `padding` another token than
    /// the end.
    pub fn from_words(
        file: PathBuf,
        vocabulary: Vocabulary,
        padding: Option<&str>,
        max_length: usize,
        vocab_size: usize,
    ) -> Result<Self, DiffusionError> {
        let words: Vocab = vocabulary.words.into_iter().collect();
        let tokenizer = from_model(&file, BPE::builder().vocab_and_merges(words, vocabulary.merges))?;
        let options = Options { padding: padding.map(str::to_owned), length: None };
        Self::new(file, tokenizer, options, max_length, vocab_size)
    }

    fn new(
        file: PathBuf,
        mut tokenizer: Tokenizer,
        options: Options,
        max_length: usize,
        vocab_size: usize,
    ) -> Result<Self, DiffusionError> {
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| unusable(&file, error))?;
        let id = |token: &str| {
            tokenizer
                .token_to_id(token)
                .ok_or_else(|| unusable(&file, format!("`{token}`: expected in the vocabulary, found none")))
        };
        let (start, end) = (id(START)?, id(END)?);
        let empty = tokenizer.encode("", true).map_err(|error| unusable(&file, error))?;
        if empty.get_ids() != [start, end] {
            let reason =
                format!("an empty prompt: expected ids [{start}, {end}], found {:?}", empty.get_ids());
            return Err(unusable(&file, reason));
        }
        if let Some((token, id)) =
            tokenizer.get_vocab(true).iter().find(|(_, id)| **id as usize >= vocab_size)
        {
            let reason = format!("`{token}`: expected an id below {vocab_size}, found {id}");
            return Err(unusable(&file, reason));
        }
        let padding = match &options.padding {
            Some(token) => id(token)?,
            None => end,
        };
        let length = options.length.map_or(max_length, |length| length.min(max_length));
        if length < MIN_LENGTH {
            let reason = format!("tokens per prompt: expected at least {MIN_LENGTH}, found {length}");
            return Err(unusable(&file, reason));
        }
        Ok(Self { start, end, padding, length, tokenizer, file })
    }

    /// Cuts a prompt that is too long (its end token is kept) and pads a short one.
    pub fn encode(&self, prompt: &str) -> Result<Tokens, DiffusionError> {
        let encoding = self.tokenizer.encode(prompt, true).map_err(|error| unusable(&self.file, error))?;
        Ok(Tokens::of_length(self.length, prompt, &encoding, self.end, self.padding))
    }

    /// The ids of a text alone: no start, no end, neither cut nor padded.
    pub(super) fn words(&self, text: &str) -> Result<Vec<u32>, DiffusionError> {
        let encoding = self.tokenizer.encode(text, false).map_err(|error| unusable(&self.file, error))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The id of a token, written as in the vocabulary.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// The ids of start, end and padding.
    pub(super) fn frame(&self) -> (u32, u32, u32) {
        (self.start, self.end, self.padding)
    }

    /// Tokens per prompt.
    pub fn length(&self) -> usize {
        self.length
    }
}

fn unusable(file: &Path, reason: impl ToString) -> DiffusionError {
    DiffusionError::Tokenizer { file: file.to_owned(), reason: reason.to_string() }
}

/// `tokenizer.json`. The library panics on a text that is no JSON and on a damaged `Precompiled` normalizer, which no
/// CLIP tokenizer has: both are refused first.
fn from_whole(file: &Path) -> Result<Tokenizer, DiffusionError> {
    let bytes = read_limited(file, MAX_TOKENIZER_BYTES)?;
    let config = ConfigFile::parse(file, &bytes)?;
    if config.value("normalizer").is_some_and(|value| value.to_string().contains("Precompiled")) {
        return Err(config.unusable("normalizer", "one of CLIP's", "Precompiled"));
    }
    Tokenizer::from_bytes(&bytes).map_err(|error| unusable(file, error))
}

/// CLIP's tokenizer as transformers builds it.
fn from_vocabulary(vocabulary: &Path, merges: &Path) -> Result<Tokenizer, DiffusionError> {
    let words = ConfigFile::parse(vocabulary, &read_limited(vocabulary, MAX_TOKENIZER_BYTES)?)?;
    let id = |(word, id): (&String, &Value)| {
        let found = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let found =
            found.ok_or_else(|| unusable(vocabulary, format!("`{word}`: expected an id, found {id}")));
        Ok((word.clone(), found?))
    };
    let words = words.entries().map(id).collect::<Result<Vocab, DiffusionError>>()?;
    let bytes = read_limited(merges, MAX_TOKENIZER_BYTES)?;
    let text = std::str::from_utf8(&bytes).map_err(|error| unusable(merges, error))?;
    from_model(vocabulary, BPE::builder().vocab_and_merges(words, pairs(merges, text)?))
}

/// The pairs of `merges.txt`, one on a line. Lines for people begin so.
fn pairs(merges: &Path, text: &str) -> Result<Vec<(String, String)>, DiffusionError> {
    let lines =
        text.lines().enumerate().filter(|(_, line)| !line.starts_with("#version") && !line.is_empty());
    lines
        .map(|(number, line)| match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok((left.to_owned(), right.to_owned())),
            _ => Err(unusable(merges, format!("line {}: expected two parts of a word", number + 1))),
        })
        .collect()
}

fn from_model(vocabulary: &Path, model: BpeBuilder) -> Result<Tokenizer, DiffusionError> {
    let broken = |error: tokenizers::Error| unusable(vocabulary, error);
    let model = model
        .unk_token(END.into())
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix("</w>".into())
        .build()
        .map_err(broken)?;
    let mut tokenizer = Tokenizer::new(model);
    let id = |token: &str| {
        tokenizer
            .token_to_id(token)
            .ok_or_else(|| unusable(vocabulary, format!("`{token}`: expected in the vocabulary, found none")))
    };
    let (start, end) = (id(START)?, id(END)?);
    let spaces = Replace::new(ReplacePattern::Regex(r"\s+".into()), " ").map_err(broken)?;
    let normalizers: Vec<NormalizerWrapper> = vec![NFC.into(), spaces.into(), Lowercase.into()];
    let split = Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Removed, true)
        .map_err(broken)?;
    let words: Vec<PreTokenizerWrapper> = vec![split.into(), ByteLevel::new(false, true, true).into()];
    tokenizer
        .with_normalizer(Some(Sequence::new(normalizers)))
        .map_err(broken)?
        .with_pre_tokenizer(Some(PreSequence::new(words)))
        .with_post_processor(Some(
            RobertaProcessing::new((END.into(), end), (START.into(), start))
                .trim_offsets(false)
                .add_prefix_space(false),
        ));
    let special = [START, END].map(|token| AddedToken::from(token, true).normalized(false));
    tokenizer.add_special_tokens(special).map_err(broken)?;
    Ok(tokenizer)
}

/// What `tokenizer_config.json` and `special_tokens_map.json` add.
struct Options {
    padding: Option<String>,
    length: Option<usize>,
}

impl Options {
    fn read(folder: &Path) -> Result<Self, DiffusionError> {
        let mut options = Self { padding: None, length: None };
        for name in ["tokenizer_config.json", "special_tokens_map.json"] {
            let path = folder.join(name);
            if !path.is_file() {
                continue;
            }
            let file = ConfigFile::read(&path)?;
            if options.padding.is_none() {
                options.padding = file.value("pad_token").and_then(token_text).map(str::to_owned);
            }
            if options.length.is_none() {
                options.length =
                    file.value("model_max_length").and_then(Value::as_u64).map(|length| length as usize);
            }
        }
        Ok(options)
    }
}

/// A token is written as a text or as an object with its `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content").and_then(Value::as_str))
}
