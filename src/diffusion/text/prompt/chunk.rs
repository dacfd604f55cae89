//! Pieces of an `a1111` prompt to chunks of the text encoder's length.
//!
//! A chunk is start, words, end and padding. Where the words of a prompt are more than fit, the chunk ends behind its
//! last comma if that is among its last [`BACKTRACK`] words, so that no phrase is torn.

use super::{
    Piece,
    word::{self, Part, Word},
};
use crate::diffusion::{DiffusionError, text::ClipTokenizer};

/// Chunks of a prompt at most: with 75 words each more than 4,096 characters of plain English need. It bounds the
/// memory of cross attention.
pub const MAX_CHUNKS: usize = 32;
/// Words that are moved into the next chunk at most, for the sake of a comma: the web UI's default.
const BACKTRACK: usize = 20;
/// The comma as a word of its own in every CLIP vocabulary.
const COMMA: &str = ",</w>";

/// What the text encoder takes at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// As many as the tokenizer's length, with start, end and padding.
    pub ids: Vec<u32>,
    /// One for each id; those of start, end and padding are 1.
    pub weights: Vec<f32>,
}

impl Chunk {
    /// All weights 1.
    pub(super) fn plain(ids: Vec<u32>) -> Self {
        Self { weights: vec![1.0; ids.len()], ids }
    }
}

/// At least one chunk.
pub(super) fn split(
    tokenizer: &ClipTokenizer,
    words: &[Word],
    field: &'static str,
    pieces: &[Piece],
) -> Result<Vec<Chunk>, DiffusionError> {
    let mut splitter = Splitter {
        tokenizer,
        comma: tokenizer.id(COMMA),
        room: tokenizer.length() - 2,
        words: Vec::new(),
        last_comma: None,
        chunks: Vec::new(),
    };
    for piece in pieces {
        match piece {
            Piece::Break => splitter.end_chunk(splitter.words.len()),
            Piece::Text { text, weight } => {
                for part in word::split(text, words) {
                    let ids = match part {
                        Part::Text(text) => tokenizer.words(text)?,
                        Part::Word(ids) => {
                            splitter.make_room(ids.len());
                            ids.collect()
                        }
                    };
                    ids.into_iter().for_each(|id| splitter.push(id, *weight as f32));
                }
            }
        }
        if splitter.chunks.len() > MAX_CHUNKS {
            break;
        }
    }
    if !splitter.words.is_empty() || splitter.chunks.is_empty() {
        splitter.end_chunk(splitter.words.len());
    }
    if splitter.chunks.len() > MAX_CHUNKS {
        let reason = format!("it is longer than {MAX_CHUNKS} chunks of {} tokens", splitter.room);
        return Err(DiffusionError::request(field, reason));
    }
    Ok(splitter.chunks)
}

/// The chunk that is being filled, and those that are full.
struct Splitter<'a> {
    tokenizer: &'a ClipTokenizer,
    comma: Option<u32>,
    /// Words that fit into a chunk, at least one.
    room: usize,
    words: Vec<(u32, f32)>,
    /// Where in `words` the last comma is.
    last_comma: Option<usize>,
    chunks: Vec<Chunk>,
}

impl Splitter<'_> {
    fn push(&mut self, id: u32, weight: f32) {
        let is_comma = Some(id) == self.comma;
        if self.words.len() == self.room {
            let behind_comma = self.last_comma.map_or(0, |at| at + 1);
            let near = self.last_comma.is_some_and(|at| self.room - at <= BACKTRACK);
            self.end_chunk(if near && !is_comma { behind_comma } else { self.room });
            // The chunk that a comma opens is not torn at that comma.
        } else if is_comma {
            self.last_comma = Some(self.words.len());
        }
        self.words.push((id, weight));
    }

    /// Ends the chunk if there is no room for so many: a word of a file is not torn.
    fn make_room(&mut self, ids: usize) {
        if !self.words.is_empty() && self.words.len() + ids > self.room {
            self.end_chunk(self.words.len());
        }
    }

    /// Ends the chunk after so many of its words; the others begin the next one.
    fn end_chunk(&mut self, words: usize) {
        let next = self.words.split_off(words);
        let (ids, weights): (Vec<u32>, Vec<f32>) =
            std::mem::replace(&mut self.words, next).into_iter().unzip();
        let (start, end, padding) = self.tokenizer.frame();
        let mut chunk = Chunk {
            ids: [&[start], ids.as_slice(), &[end]].concat(),
            weights: [&[1.0], weights.as_slice(), &[1.0]].concat(),
        };
        if let Some(first_end) = chunk.ids.iter().position(|id| *id == end)
            && padding != end
        {
            // An end token that was typed ends the words, as in the web UI.
            chunk.ids[first_end + 1..].fill(padding);
        }
        chunk.ids.resize(self.room + 2, padding);
        chunk.weights.resize(self.room + 2, 1.0);
        self.chunks.push(chunk);
        self.last_comma = None;
    }
}
