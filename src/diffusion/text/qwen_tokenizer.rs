//! Qwen's tokenizer: a prompt, as a user's message to an assistant, to token ids.

use std::path::PathBuf;

use tokenizers::Tokenizer;

use super::{Tokens, whole};
use crate::diffusion::{DiffusionError, checkpoint::TokenizerFiles};

/// What Qwen3's template makes of one message, before and behind it, with the assistant's answer begun.
const BEFORE: &str = "<|im_start|>user\n";
const BEHIND: &str = "<|im_end|>\n<|im_start|>assistant\n";

/// The tokenizer of a checkpoint.
pub struct QwenTokenizer {
    file: PathBuf,
    tokenizer: Tokenizer,
    length: usize,
}

impl QwenTokenizer {
    /// Reads `tokenizer.json` in a checkpoint's folder of it. Of a prompt `length` ids are read at most; `vocab_size` is the
    /// encoder's number of embeddings.
    ///
    /// # Errors
    /// When there is none, naming what is there instead; when an id would have no embedding.
    pub fn read(files: TokenizerFiles, length: usize, vocab_size: usize) -> Result<Self, DiffusionError> {
        let folder = match files {
            TokenizerFiles::Folder(folder) => folder,
            TokenizerFiles::ClipBuiltIn { label, .. } => {
                return Err(whole::unusable(&label, "expected Qwen's tokenizer, found CLIP's"));
            }
        };
        let instead =
            "vocab.json and merges.txt alone, which are not read; save the tokenizer again with transformers";
        let (file, tokenizer) = whole::read(&folder, vocab_size, ("vocab.json", instead))?;
        for mark in ["<|im_start|>", "<|im_end|>"] {
            if tokenizer.token_to_id(mark).is_none() {
                let reason = format!("`{mark}`: expected in the vocabulary, found none");
                return Err(whole::unusable(&file, reason));
            }
        }
        Ok(Self { file, tokenizer, length })
    }

    /// As many ids as the prompt has, and the end of one that is too long.
    ///
    /// # Errors
    /// What the library says.
    pub fn encode(&self, prompt: &str) -> Result<Tokens, DiffusionError> {
        let text = format!("{BEFORE}{prompt}{BEHIND}");
        let encoding =
            self.tokenizer.encode(text.as_str(), true).map_err(|error| whole::unusable(&self.file, error))?;
        let mut ids = encoding.get_ids().to_vec();
        let cut = encoding.get_offsets().get(self.length).map(|(start, _)| {
            let left = text.get(*start..).unwrap_or_default();
            left.strip_suffix(BEHIND).unwrap_or_default().trim().to_owned()
        });
        ids.truncate(self.length);
        Ok(Tokens { ids, cut: cut.filter(|cut| !cut.is_empty()) })
    }
}
