//! Textual inversions (arXiv 2208.01618): files that add words to the text encoders, each of one vector or some.
//!
//! Files have one tensor, whatever it is called (diffusers' has the name of the token, A1111's `emb_params` or
//! `string_to_param.*`), or `clip_l` and `clip_g` for the two text encoders of SDXL. The same stands in LoRAs, behind
//! `bundle_emb.<name>.`.

use candle_core::{Device, Tensor};

use super::content::Content;
use crate::diffusion::DiffusionError;

/// Vectors of a word at most: as many as a prompt has words for.
const MAX_VECTORS: usize = 75;

/// What begins the keys of a word in a file of a LoRA.
const BUNDLED: &str = "bundle_emb.";
/// The keys of files for two text encoders, and the encoders that they are for.
const BY_ENCODER: [(&str, &str); 2] = [("clip_l", "text_encoder"), ("clip_g", "text_encoder_2")];
/// Tensors beside A1111's vectors, which say nothing: the token that they were trained for.
const IGNORED: &str = "string_to_token";

/// A text encoder that takes words.
#[derive(Debug, Clone)]
pub struct TakesWords {
    /// Its component.
    pub component: &'static str,
    /// The width of a vector.
    pub width: usize,
    /// Where they are wanted.
    pub device: Device,
}

/// A word that a file adds.
#[derive(Debug, Clone)]
pub struct AddedWord {
    /// What prompts call it.
    pub name: String,
    /// `[vectors, width]` for each text encoder.
    pub vectors: Vec<(&'static str, Tensor)>,
}

/// The error of a key: what is expected, and what is found.
pub type Wrong<'a> = dyn Fn(&str, &str, &str) -> DiffusionError + 'a;

impl AddedWord {
    /// Takes the word of a file, or of a part of one: `keys` are what its tensors are called, and their names in the file.
    ///
    /// # Errors
    /// Tensors that are of no textual inversion, or of one for other text encoders.
    pub fn read(
        name: &str,
        file: &Content,
        keys: &[(&str, &str)],
        encoders: &[TakesWords],
        wrong: &Wrong<'_>,
    ) -> Result<Self, DiffusionError> {
        let keys: Vec<_> = keys.iter().filter(|(part, _)| !part.starts_with(IGNORED)).collect();
        let Some((_, first)) = keys.first() else {
            return Err(wrong(name, "the vectors of a word", "none"));
        };
        if encoders.is_empty() {
            return Err(wrong(first, "nothing for the text encoders", "a word, and this model takes none"));
        }
        let by_encoder = keys.iter().any(|(part, _)| BY_ENCODER.iter().any(|(known, _)| part == known));
        let mut vectors: Vec<(&'static str, Tensor)> = Vec::new();
        for TakesWords { component, width, device } in encoders {
            let wanted =
                BY_ENCODER.iter().find(|(_, of)| of == component).map_or("clip_l", |(part, _)| *part);
            let key = match by_encoder {
                true => keys.iter().find(|(part, _)| *part == wanted).map(|(_, key)| *key),
                false if encoders.len() == 1 => Some(*first),
                false => None,
            };
            let Some(key) = key else {
                let found = if by_encoder { "none" } else { "one tensor, for one text encoder" };
                return Err(wrong(first, &format!("`{wanted}` for {component}"), found));
            };
            vectors.push((*component, vectors_of(file, key, *width, device, wrong)?));
        }
        let used = if by_encoder { encoders.len() } else { 1 };
        if keys.len() != used {
            let parts: Vec<_> = keys.iter().map(|(part, _)| *part).collect();
            let expected = match encoders.len() {
                1 => "one tensor, for this model's one text encoder",
                _ => "`clip_l` and `clip_g` alone",
            };
            return Err(wrong(first, expected, &parts.join(", ")));
        }
        let count = vectors[0].1.dim(0)?;
        match vectors.iter().all(|(_, rows)| rows.dims()[0] == count) {
            true => Ok(Self { name: name.to_owned(), vectors }),
            false => Err(wrong(first, "as many vectors for each text encoder", "other numbers of them")),
        }
    }

    /// How many vectors it has.
    pub fn count(&self) -> usize {
        self.vectors.first().map_or(0, |(_, rows)| rows.dims()[0])
    }

    /// Bytes of all vectors.
    pub fn bytes(&self) -> usize {
        self.vectors.iter().map(|(_, rows)| rows.elem_count() * rows.dtype().size_in_bytes()).sum()
    }
}

/// `[vectors, width]`; one vector may stand as it is.
fn vectors_of(
    file: &Content,
    key: &str,
    width: usize,
    device: &Device,
    wrong: &Wrong<'_>,
) -> Result<Tensor, DiffusionError> {
    let count = match file.shape(key).unwrap_or_default() {
        [found] if *found == width => 1,
        [count, found] if *found == width => *count,
        found => return Err(wrong(key, &format!("vectors of {width} numbers"), &format!("shape {found:?}"))),
    };
    if count == 0 || count > MAX_VECTORS {
        return Err(wrong(key, &format!("1 to {MAX_VECTORS} vectors"), &count.to_string()));
    }
    let rows = file.finite(key, device, &|expected, found| wrong(key, expected, found))?;
    Ok(rows.reshape((count, width))?)
}

/// The name of the word that a key of a LoRA is of, and the rest of it: `bundle_emb.name.clip_l`.
pub fn bundled(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(BUNDLED)?.split_once('.')
}
