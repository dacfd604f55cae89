//! Tokenizers and text encoders of a checkpoint together: prompts to what the network attends to.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::{Encoder, Hidden, Variant};
use crate::{
    contract::PromptSyntax,
    diffusion::{
        DiffusionError,
        checkpoint::Checkpoint,
        lora::{AddedWord, TakesWords},
        networks::{
            clip::{ADDED, HiddenStates, TextConfig, TextEncoder},
            unet::Texts,
        },
        text::{
            ClipTokenizer, EmbeddingCache, EmbeddingKey,
            prompt::{Reading, Word, encode, pad, read_with},
        },
    },
};

/// One encoder, or SDXL's two, each with its tokenizer. Copies share weights, tokenizers and kept embeddings.
#[derive(Clone)]
pub struct PromptEncoder {
    readers: Vec<Reader>,
    variant: Variant,
    embeddings: Arc<EmbeddingCache>,
    /// What tells these encoders from others with the same embeddings; empty as they were loaded.
    name: String,
    /// Words that were added, which prompts in the `a1111` syntax may have.
    words: Vec<Word>,
}

/// A text encoder with its tokenizer.
#[derive(Clone)]
struct Reader {
    component: &'static str,
    tokenizer: Arc<ClipTokenizer>,
    encoder: TextEncoder,
}

/// A prompt and its negative, as a request has them.
#[derive(Debug, Clone, Copy)]
pub struct Prompts<'a> {
    /// How both are read.
    pub syntax: PromptSyntax,
    /// What to draw.
    pub positive: &'a str,
    /// What not to draw.
    pub negative: Option<&'a str>,
    /// Layers left out, as diffusers counts them; for the positive prompt only.
    pub clip_skip: u32,
    /// Whether the negative prompt is wanted at all.
    pub guided: bool,
}

/// Embeddings of a prompt, or of a negative prompt and a prompt.
pub struct Encoded {
    /// `[samples, tokens, width]`.
    pub text: Tensor,
    /// `[samples, width]`, of SDXL.
    pub pooled: Option<Tensor>,
    /// What tells the samples' texts from others; none for one of zeros. The same prompt has the same as long as its
    /// embeddings are kept.
    pub texts: Texts,
}

impl PromptEncoder {
    /// Reads the encoders of a family and their tokenizers. Returns the bytes of their weights too.
    pub fn load(
        checkpoint: &Checkpoint,
        variant: Variant,
        device: &Device,
        dtype: DType,
    ) -> Result<(Self, u64), DiffusionError> {
        let mut readers = Vec::new();
        let mut bytes = 0;
        let there =
            variant.encoders.iter().filter(|encoder| checkpoint.class_of(encoder.component).is_some());
        for Encoder { component, tokenizer, projects } in there {
            let config = TextConfig::read(&checkpoint.config(component)?, *projects)?;
            let tokenizer = checkpoint.tokenizer(tokenizer)?;
            let tokenizer =
                ClipTokenizer::read(tokenizer, config.max_position_embeddings, config.vocab_size)?;
            let tokenizer = Arc::new(tokenizer);
            let weights = checkpoint.weights(component, device, dtype)?;
            let encoder = TextEncoder::load(config, &weights.root())?;
            readers.push(Reader { component, tokenizer, encoder });
            bytes += weights.bytes_taken();
        }
        let embeddings = Arc::new(EmbeddingCache::default());
        Ok((Self { readers, variant, embeddings, name: String::new(), words: Vec::new() }, bytes))
    }

    /// The first tokenizer.
    pub fn tokenizer(&self) -> &ClipTokenizer {
        &self.readers[0].tokenizer
    }

    /// The encoders, SDXL's larger one last.
    pub fn encoders(&self) -> impl Iterator<Item = &TextEncoder> {
        self.readers.iter().map(|reader| &reader.encoder)
    }

    /// The encoders to be changed, with their components' names.
    pub(in crate::diffusion) fn components_mut(
        &mut self,
    ) -> impl Iterator<Item = (&'static str, &mut TextEncoder)> {
        self.readers.iter_mut().map(|reader| (reader.component, &mut reader.encoder))
    }

    /// Says what tells the encoders from those as they were loaded, so that embeddings are not mixed up.
    pub(in crate::diffusion) fn rename(&mut self, name: String) {
        self.name = name;
    }

    /// The encoders as they take words of files.
    pub(in crate::diffusion) fn takes_words(&self) -> Vec<TakesWords> {
        let of = |Reader { component, encoder, .. }: &Reader| TakesWords {
            component,
            width: encoder.width(),
            device: encoder.device().clone(),
        };
        self.readers.iter().map(of).collect()
    }

    /// Adds a word to all encoders.
    ///
    /// # Errors
    /// What candle says.
    pub(in crate::diffusion) fn add_word(&mut self, word: &AddedWord) -> candle_core::Result<()> {
        for Reader { component, encoder, .. } in &mut self.readers {
            if let Some((_, vectors)) = word.vectors.iter().find(|(of, _)| of == component) {
                encoder.add_words(vectors)?;
            }
        }
        let first = self.words.last().map_or(ADDED, |word| word.ids.end);
        self.words.push(Word::new(&word.name, first, word.count() as u32));
        Ok(())
    }

    /// Width of the embeddings of all encoders together.
    pub fn width(&self) -> usize {
        self.encoders().map(TextEncoder::width).sum()
    }

    /// Width of the pooled embedding, 0 without one.
    pub fn pooled_width(&self) -> usize {
        self.encoders().filter_map(TextEncoder::pooled_width).sum()
    }

    /// Embeddings of the last prompts.
    pub fn embeddings(&self) -> &EmbeddingCache {
        &self.embeddings
    }

    /// Embeds the prompts; what had to be cut or was not understood is said in `warnings`.
    pub fn encode(
        &self,
        prompts: &Prompts<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Encoded, DiffusionError> {
        let skip = prompts.clip_skip as usize;
        let most =
            self.encoders().map(TextEncoder::layers).min().unwrap_or(0) - self.variant.hidden.left_out();
        if skip > most {
            let reason = format!("{skip}; the text encoder has {most} layers to leave out");
            return Err(DiffusionError::request("clip_skip", reason));
        }
        let mut embed = |field, text, skip| self.embed(field, text, prompts.syntax, skip, warnings);
        let positive = embed("prompt", prompts.positive, skip)?;
        if !prompts.guided {
            return Ok(positive);
        }
        let negative = match prompts.negative {
            None if self.variant.zeros_for_no_negative => Encoded {
                text: positive.text.zeros_like()?,
                pooled: positive.pooled.as_ref().map(Tensor::zeros_like).transpose()?,
                texts: vec![None],
            },
            text => embed("negative_prompt", text.unwrap_or(""), 0)?,
        };
        let tokens = positive.text.dim(1)?.max(negative.text.dim(1)?);
        let positive_text = pad(positive.text, tokens, || Ok(embed("prompt", "", skip)?.text))?;
        let negative_text = pad(negative.text, tokens, || Ok(embed("negative_prompt", "", 0)?.text))?;
        let cat = |negative: Tensor, positive: Tensor| Tensor::cat(&[negative, positive], 0);
        Ok(Encoded {
            text: cat(negative_text, positive_text)?,
            pooled: negative.pooled.zip(positive.pooled).map(|(n, p)| cat(n, p)).transpose()?,
            texts: [negative.texts, positive.texts].concat(),
        })
    }

    /// `[1, tokens, width]`: each encoder's hidden states side by side; the pooled embedding is the last encoder's, of
    /// the first chunk.
    fn embed(
        &self,
        field: &'static str,
        text: &str,
        syntax: PromptSyntax,
        skip: usize,
        warnings: &mut Vec<String>,
    ) -> Result<Encoded, DiffusionError> {
        let readings = self
            .readers
            .iter()
            .map(|reader| read_with(&reader.tokenizer, &self.words, syntax, field, text))
            .collect::<Result<Vec<Reading>, _>>()?;
        warnings.extend(readings.first().and_then(|reading| reading.warning.clone()));
        let compute = || {
            let (mut hidden, mut pooled) = (Vec::new(), None);
            for (reading, Reader { encoder, .. }) in readings.iter().zip(&self.readers) {
                let mut own_pooled = None;
                hidden.push(encode(&reading.chunks, |ids| {
                    let output = encoder.outputs(&[ids.to_vec()], self.wanted(skip))?;
                    own_pooled = own_pooled.take().or(output.pooled);
                    Ok(output.hidden)
                })?);
                pooled = own_pooled.or(pooled);
            }
            let text = Tensor::cat(&hidden, 2)?;
            Ok::<_, DiffusionError>([Some(text), pooled].into_iter().flatten().collect())
        };
        let key = EmbeddingKey::new(text, syntax, skip, &self.name);
        let mut tensors = self.embeddings.get_or_encode(key, compute)?.into_iter();
        let text = tensors.next().expect("compute gives the text's embedding first");
        Ok(Encoded { texts: vec![Some(text.id())], text, pooled: tensors.next() })
    }

    fn wanted(&self, skip: usize) -> HiddenStates {
        let skip = skip + self.variant.hidden.left_out();
        match self.variant.hidden {
            Hidden::LastNormed => HiddenStates::Normed { skip },
            Hidden::LastButOne => HiddenStates::Raw { skip },
        }
    }
}
