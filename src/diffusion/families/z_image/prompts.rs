//! The text encoder of a Z-Image checkpoint with its tokenizer: a prompt to what the transformer reads.

use candle_core::{Device, Tensor};

use crate::{
    contract::PromptSyntax,
    diffusion::{
        DiffusionError,
        checkpoint::Checkpoint,
        networks::qwen3::{Qwen3, Qwen3Config},
        precision::Precision,
        text::{EmbeddingCache, EmbeddingKey, QwenTokenizer, prompt::words_alone},
    },
};

/// Tokens that are read of a prompt.
pub const WORDS: usize = 512;
/// The last layers, which the transformer does not look at.
const LAYERS_LEFT_OUT: usize = 1;

/// Qwen3 and its tokenizer.
pub struct PromptEncoder {
    tokenizer: QwenTokenizer,
    encoder: Qwen3,
    /// Of the last prompts: encoding one takes as long as several steps.
    embeddings: EmbeddingCache,
}

impl PromptEncoder {
    /// Reads both. Returns the bytes of the weights too.
    ///
    /// # Errors
    /// File, key, expected and found.
    pub fn load(
        checkpoint: &Checkpoint,
        config: Qwen3Config,
        device: &Device,
        precision: Precision,
    ) -> Result<(Self, u64), DiffusionError> {
        let tokenizer = QwenTokenizer::read(checkpoint.tokenizer("tokenizer")?, WORDS, config.vocab_size)?;
        let weights = checkpoint.weights("text_encoder", device, precision.text_encoder)?;
        let layers = config.layers.saturating_sub(LAYERS_LEFT_OUT);
        let encoder = Qwen3::load(config, layers, &weights.root(), device, precision.text_encoder)?;
        let prompts = Self { tokenizer, encoder, embeddings: EmbeddingCache::default() };
        Ok((prompts, weights.bytes_taken()))
    }

    /// The tokenizer, for tools and tests.
    pub fn tokenizer(&self) -> &QwenTokenizer {
        &self.tokenizer
    }

    /// `[1, tokens, width]`; what had to be cut is said in `warnings`. `field` is the prompt's name in the request.
    ///
    /// # Errors
    /// A prompt that says more than words, and what computing says.
    pub fn encode(
        &self,
        field: &'static str,
        (text, syntax): (&str, PromptSyntax),
        warnings: &mut Vec<String>,
    ) -> Result<Tensor, DiffusionError> {
        let words = words_alone(field, text, syntax)?;
        let tokens = self.tokenizer.encode(&words)?;
        if let Some(cut) = tokens.cut {
            warnings.push(format!("`{field}` was cut at {WORDS} tokens; left out: {cut}"));
        }
        let encode = || Ok::<_, DiffusionError>(vec![self.encoder.forward(&tokens.ids)?]);
        let key = EmbeddingKey::new(&words, PromptSyntax::Plain, 0, "");
        let mut tensors = self.embeddings.get_or_encode(key, encode)?;
        Ok(tensors.pop().expect("one tensor is kept of a prompt"))
    }
}
