//! Tokenizers and text encoders of a Flux checkpoint together: a prompt to what the transformer is told of it.

use std::sync::Arc;

use candle_core::{Device, IndexOp, Tensor};

use crate::{
    contract::PromptSyntax,
    diffusion::{
        DiffusionError,
        checkpoint::{Checkpoint, Weights},
        networks::{
            clip::{TextConfig, TextEncoder},
            t5::{T5Config, T5Encoder},
        },
        precision::Precision,
        text::{ClipTokenizer, EmbeddingCache, EmbeddingKey, T5Tokenizer},
    },
};

/// CLIP, which sets the tone, and T5, which reads the prompt, each with its tokenizer. Copies share weights, tokenizers and
/// kept embeddings.
#[derive(Clone)]
pub struct PromptEncoder {
    clip_tokenizer: Arc<ClipTokenizer>,
    clip: TextEncoder,
    t5_tokenizer: Arc<T5Tokenizer>,
    t5: Arc<T5Encoder>,
    /// Of the last prompts: T5 takes longer than a step of schnell, and the pictures of a job share their prompt.
    embeddings: Arc<EmbeddingCache>,
    /// What tells CLIP from others with the same embeddings; empty as it was loaded.
    name: String,
}

/// A prompt, encoded.
#[derive(Debug, Clone)]
pub struct TextEmbeddings {
    /// `[1, words, width]` from T5.
    pub words: Tensor,
    /// `[1, width]` from CLIP: its last layer, normalised, at the end of the prompt.
    pub pooled: Tensor,
    /// That the prompt was cut, for the requester.
    pub warnings: Vec<String>,
}

impl PromptEncoder {
    /// Reads both encoders and tokenizers; T5 reads so many `words`. Returns the bytes of their weights too.
    ///
    /// # Errors
    /// File, key, expected and found.
    pub fn load(
        checkpoint: &Checkpoint,
        (clip, t5): (TextConfig, T5Config),
        words: usize,
        device: &Device,
        precision: Precision,
    ) -> Result<(Self, u64), DiffusionError> {
        let clip_tokenizer = checkpoint.tokenizer("tokenizer")?;
        let clip_tokenizer =
            ClipTokenizer::read(clip_tokenizer, clip.max_position_embeddings, clip.vocab_size)?;
        let t5_tokenizer = T5Tokenizer::read(checkpoint.tokenizer("tokenizer_2")?, words, t5.vocab_size)?;
        let open = |component| checkpoint.weights(component, device, precision.text_encoder);
        let (clip_weights, t5_weights) = (open("text_encoder")?, open("text_encoder_2")?);
        let encoder = Self {
            clip_tokenizer: Arc::new(clip_tokenizer),
            clip: TextEncoder::load(clip, &clip_weights.root())?,
            t5_tokenizer: Arc::new(t5_tokenizer),
            t5: Arc::new(T5Encoder::load(t5, &t5_weights.root(), device, precision.text_encoder)?),
            embeddings: Arc::default(),
            name: String::new(),
        };
        Ok((encoder, [clip_weights, t5_weights].iter().map(Weights::bytes_taken).sum()))
    }

    /// T5's tokenizer, for tools and tests.
    pub fn t5_tokenizer(&self) -> &T5Tokenizer {
        &self.t5_tokenizer
    }

    /// CLIP, to be changed.
    pub(in crate::diffusion) fn clip_mut(&mut self) -> &mut TextEncoder {
        &mut self.clip
    }

    /// Says what tells CLIP from the one that was loaded, so that embeddings are not mixed up.
    pub(in crate::diffusion) fn rename(&mut self, name: String) {
        self.name = name;
    }

    /// Embeddings of the last prompts.
    pub fn embeddings(&self) -> &EmbeddingCache {
        &self.embeddings
    }

    /// Both text encoders' view of a prompt.
    pub fn encode(&self, prompt: &str) -> Result<TextEmbeddings, DiffusionError> {
        let (clip, t5) = (self.clip_tokenizer.encode(prompt)?, self.t5_tokenizer.encode(prompt)?);
        let cut = |reader: &str, length: usize, cut: Option<String>| {
            cut.map(|cut| format!("`prompt` was cut at {length} tokens for {reader}; left out: {cut}"))
        };
        let encode = || {
            let hidden = self.clip.forward(std::slice::from_ref(&clip.ids), 0)?;
            let pooled = hidden.i((.., self.clip.end_of(&clip.ids)))?.copy()?;
            Ok::<_, DiffusionError>(vec![self.t5.forward(&t5.ids)?, pooled])
        };
        let key = EmbeddingKey::new(prompt, PromptSyntax::Plain, 0, &self.name);
        let mut tensors = self.embeddings.get_or_encode(key, encode)?.into_iter();
        let mut next = || tensors.next().expect("both encoders' embeddings are kept together");
        Ok(TextEmbeddings {
            words: next(),
            pooled: next(),
            // CLIP reads 77 tokens and sets the tone only; what T5 reads in full is in the picture.
            warnings: cut("T5", self.t5_tokenizer.length(), t5.cut).into_iter().collect(),
        })
    }
}
