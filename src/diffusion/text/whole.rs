//! A tokenizer that is written down whole, in `tokenizer.json`.

use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

use crate::diffusion::{
    DiffusionError,
    checkpoint::{ConfigFile, limits::MAX_TOKENIZER_BYTES, read_limited},
};

/// Reads `tokenizer.json` of a folder, which neither pads nor cuts then; `vocab_size` is the encoder's number of embeddings.
/// Returns the file's name too, for errors.
///
/// # Errors
/// When there is none, naming what is there `instead` (a file, and what it is); when an id would have no embedding.
pub fn read(
    folder: &Path,
    vocab_size: usize,
    instead: (&str, &str),
) -> Result<(PathBuf, Tokenizer), DiffusionError> {
    let file = folder.join("tokenizer.json");
    if !file.is_file() {
        let found = if folder.join(instead.0).is_file() { instead.1 } else { "none" };
        return Err(unusable(&file, format!("expected this file, found {found}")));
    }
    // The library panics on a text that is no JSON.
    let bytes = read_limited(&file, MAX_TOKENIZER_BYTES)?;
    ConfigFile::parse(&file, &bytes)?;
    let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|error| unusable(&file, error))?;
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(|error| unusable(&file, error))?;
    if let Some((token, id)) = tokenizer.get_vocab(true).iter().find(|(_, id)| **id as usize >= vocab_size) {
        return Err(unusable(&file, format!("`{token}`: expected an id below {vocab_size}, found {id}")));
    }
    Ok((file, tokenizer))
}

/// The error of a tokenizer that cannot be used.
pub fn unusable(file: &Path, reason: impl ToString) -> DiffusionError {
    DiffusionError::Tokenizer { file: file.to_owned(), reason: reason.to_string() }
}
