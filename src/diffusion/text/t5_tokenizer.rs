//! T5's tokenizer: a prompt to a fixed number of token ids.

use std::path::PathBuf;

use serde_json::Value;
use tokenizers::Tokenizer;

use super::{
    Tokens,
    whole::{self, unusable},
};
use crate::diffusion::{
    DiffusionError,
    checkpoint::{ConfigFile, TokenizerFiles},
};

/// The end of a prompt in T5's vocabularies.
const END: &str = "</s>";
/// What fills a prompt up when the configuration names nothing else.
const PADDING: &str = "<pad>";

/// The tokenizer of a checkpoint.
pub struct T5Tokenizer {
    file: PathBuf,
    tokenizer: Tokenizer,
    end: u32,
    padding: u32,
    length: usize,
}

impl T5Tokenizer {
    /// Reads `tokenizer.json` in a checkpoint's folder of it. A prompt gets `length` ids, or fewer where the tokenizer's own `model_max_length` is
    /// lower; `vocab_size` is the encoder's number of embeddings.
    ///
    /// # Errors
    /// When there is none, naming what is there instead; when an id would have no embedding.
    pub fn read(files: TokenizerFiles, length: usize, vocab_size: usize) -> Result<Self, DiffusionError> {
        let folder = match files {
            TokenizerFiles::Folder(folder) => folder,
            TokenizerFiles::ClipBuiltIn { label, .. } => {
                return Err(unusable(&label, "expected T5's tokenizer, found CLIP's"));
            }
        };
        let instead = "spiece.model alone, which is not read; save the tokenizer again with transformers";
        let (file, tokenizer) = whole::read(&folder, vocab_size, ("spiece.model", instead))?;
        let id = |token: &str| {
            tokenizer
                .token_to_id(token)
                .ok_or_else(|| unusable(&file, format!("`{token}`: expected in the vocabulary, found none")))
        };
        let options = folder.join("tokenizer_config.json");
        let options = if options.is_file() { Some(ConfigFile::read(&options)?) } else { None };
        let option = |key: &str| options.as_ref().and_then(|options| options.value(key));
        let padding = option("pad_token").and_then(token_text).unwrap_or(PADDING);
        let longest = option("model_max_length").and_then(Value::as_u64).unwrap_or(u64::MAX);
        Ok(Self {
            end: id(END)?,
            padding: id(padding)?,
            length: (length as u64).min(longest).max(1) as usize,
            tokenizer,
            file,
        })
    }

    /// Cuts a prompt that is too long (its end token is kept) and pads a short one.
    pub fn encode(&self, prompt: &str) -> Result<Tokens, DiffusionError> {
        let encoding = self.tokenizer.encode(prompt, true).map_err(|error| unusable(&self.file, error))?;
        Ok(Tokens::of_length(self.length, prompt, &encoding, self.end, self.padding))
    }

    /// Tokens per prompt.
    pub fn length(&self) -> usize {
        self.length
    }
}

/// A token is written as a text or as an object with its `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content").and_then(Value::as_str))
}
