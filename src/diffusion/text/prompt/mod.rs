//! From a prompt to text embeddings: `plain` as diffusers reads it, `a1111` as the A1111 web UI does.
//!
//! The `a1111` syntax is the one that its wiki describes under "Attention/emphasis" and "Infinite prompt length":
//! brackets weigh words, a long prompt becomes several chunks of the text encoder's length, each encoded alone, and the
//! embeddings lie one after the other. Not of it: prompt editing (`[from:to:when]`), alternation (`[a|b]`), `AND` and
//! `<lora:..>`; a prompt with one of them is read as words, and a warning says so.

mod attention;
mod chunk;
mod emphasis;
mod looks;
mod word;

use std::borrow::Cow;

use candle_core::Tensor;

pub use attention::{MAX_WEIGHT, Piece, WeightError, parse};
pub use chunk::{Chunk, MAX_CHUNKS};
pub use emphasis::emphasise;
pub use looks::{Looks, looks_like};
pub use word::{Word, find_names};

use super::ClipTokenizer;
use crate::{contract::PromptSyntax, diffusion::DiffusionError};

/// A prompt as one text encoder takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// At least one; with `plain` exactly one.
    pub chunks: Vec<Chunk>,
    /// What was left out or not understood, for the requester.
    pub warning: Option<String>,
}

/// Reads a prompt. `field` is its name in the request, for warnings and errors.
///
/// # Errors
/// A request error that names `field`: a weight that is no number or above [`MAX_WEIGHT`], more than [`MAX_CHUNKS`].
pub fn read(
    tokenizer: &ClipTokenizer,
    syntax: PromptSyntax,
    field: &'static str,
    text: &str,
) -> Result<Reading, DiffusionError> {
    read_with(tokenizer, &[], syntax, field, text)
}

/// As [`read`]; `words` of files are read in an `a1111` prompt.
///
/// # Errors
/// As [`read`].
pub fn read_with(
    tokenizer: &ClipTokenizer,
    words: &[Word],
    syntax: PromptSyntax,
    field: &'static str,
    text: &str,
) -> Result<Reading, DiffusionError> {
    match syntax {
        PromptSyntax::Plain => {
            let tokens = tokenizer.encode(text)?;
            let length = tokenizer.length();
            let cut = |cut| format!("`{field}` was cut at {length} tokens; left out: {cut}");
            Ok(Reading { chunks: vec![Chunk::plain(tokens.ids)], warning: tokens.cut.map(cut) })
        }
        PromptSyntax::A1111 => {
            let pieces =
                attention::parse(text).map_err(|error| DiffusionError::request(field, error.to_string()))?;
            let chunks = chunk::split(tokenizer, words, field, &pieces)?;
            let warning = attention::not_of_the_syntax(text).map(|what| {
                format!("`{field}`: {what} is not read here, its characters are words of the prompt")
            });
            Ok(Reading { chunks, warning })
        }
    }
}

/// A prompt for an encoder that reads words alone. What has no weights and no breaks says the same in either syntax.
///
/// # Errors
/// A request error: of `field` where the syntax is broken, of `prompt_syntax` where it says more than words.
pub fn words_alone<'a>(
    field: &'static str,
    text: &'a str,
    syntax: PromptSyntax,
) -> Result<Cow<'a, str>, DiffusionError> {
    if syntax == PromptSyntax::Plain {
        return Ok(Cow::Borrowed(text));
    }
    let pieces = parse(text).map_err(|error| DiffusionError::request(field, error.to_string()))?;
    let words = pieces.into_iter().map(|piece| match piece {
        Piece::Text { text, weight: 1.0 } => Some(text),
        Piece::Text { .. } | Piece::Break => None,
    });
    words.collect::<Option<String>>().map(Cow::Owned).ok_or_else(|| {
        let reason =
            format!("this model reads no weights and no BREAK; take them out of the {field}, or set `plain`");
        DiffusionError::request("prompt_syntax", reason)
    })
}

/// The embeddings of a prompt, `[1, tokens * chunks, width]`. `encoder` is the text encoder: ids of one chunk to
/// `[1, tokens, width]`; chunks go through it one by one, so that a chunk's bits do not depend on the others.
///
/// # Errors
/// Those of the encoder, and when the device has no memory.
pub fn encode(
    chunks: &[Chunk],
    mut encoder: impl FnMut(&[u32]) -> candle_core::Result<Tensor>,
) -> candle_core::Result<Tensor> {
    let encoded: Vec<Tensor> = chunks
        .iter()
        .map(|chunk| emphasise(&encoder(&chunk.ids)?, &chunk.weights))
        .collect::<candle_core::Result<_>>()?;
    Tensor::cat(&encoded, 1)
}

/// Embeddings `[1, length, width]` made as long as `tokens` by those of the empty prompt, so that prompt and negative
/// prompt can share a pass. `empty` gives the latter, `[1, tokens of a chunk, width]`, where they are needed.
///
/// # Errors
/// Those of `empty`, and when the device has no memory.
pub fn pad(
    embeddings: Tensor,
    tokens: usize,
    empty: impl FnOnce() -> Result<Tensor, DiffusionError>,
) -> Result<Tensor, DiffusionError> {
    let missing = tokens.saturating_sub(embeddings.dim(1)?);
    if missing == 0 {
        return Ok(embeddings);
    }
    let empty = empty()?;
    let chunks = missing / empty.dim(1)?;
    Ok(Tensor::cat(&[embeddings, empty.repeat((1, chunks, 1))?], 1)?)
}
