//! CLIPTextModel and CLIPTextModelWithProjection: token ids to text embeddings.

mod config;

pub use config::TextConfig;

use candle_core::{DType, Device, Result, Tensor};

use crate::diffusion::{
    DiffusionError,
    checkpoint::Scope,
    layers::{LayerNorm, Linear},
    lora::Visit,
    ops::{self, Activation, AttentionOptions},
};

/// The network.
#[derive(Clone)]
pub struct TextEncoder {
    config: TextConfig,
    tokens: Tensor,
    positions: Tensor,
    layers: Vec<EncoderLayer>,
    final_norm: LayerNorm,
    projection: Option<Linear>,
    /// `[words, width]`: vectors of words that were added; their ids begin at [`ADDED`].
    added: Option<Tensor>,
    device: Device,
    dtype: DType,
}

/// The id of the first vector that was added: no vocabulary has so many words.
pub const ADDED: u32 = 1 << 30;

/// The layer whose output is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HiddenStates {
    /// Without the last `skip` layers, through the final norm: what Stable Diffusion 1 and 2 attend to.
    Normed {
        /// Layers left out.
        skip: usize,
    },
    /// Without the last `skip` layers, as they are: what SDXL attends to.
    Raw {
        /// Layers left out.
        skip: usize,
    },
}

/// What an encoder makes of prompts.
pub struct TextOutput {
    /// `[batch, tokens, width]`.
    pub hidden: Tensor,
    /// `[batch, projection_dim]`, of an encoder with a projection.
    pub pooled: Option<Tensor>,
}

/// transformers before 4.31 wrote this id into every configuration, whatever the vocabulary: the end is then the
/// token with the highest id.
const WRONG_EOS: u32 = 2;

impl TextEncoder {
    /// Reads all weights; names with and without the leading `text_model` are taken.
    pub fn load(config: TextConfig, at: &Scope<'_>) -> std::result::Result<Self, DiffusionError> {
        let projection = match config.projection_dim {
            Some(outputs) => {
                Some(Linear::load_no_bias(&at.at("text_projection"), config.hidden_size, outputs)?)
            }
            None => None,
        };
        let inner = at.at("text_model");
        let at = if inner.has("embeddings.token_embedding.weight") || inner.has("final_layer_norm.weight") {
            inner
        } else {
            at.clone()
        };
        let width = config.hidden_size;
        let tokens = at.tensor("embeddings.token_embedding.weight", &[config.vocab_size, width])?;
        let layers = (0..config.layers)
            .map(|i| EncoderLayer::load(&at.at(format_args!("encoder.layers.{i}")), &config))
            .collect::<std::result::Result<_, _>>()?;
        Ok(Self {
            positions: at
                .tensor("embeddings.position_embedding.weight", &[config.max_position_embeddings, width])?,
            layers,
            final_norm: LayerNorm::load(&at.at("final_layer_norm"), width, config.layer_norm_eps)?,
            projection,
            added: None,
            device: tokens.device().clone(),
            dtype: at.computed_in(),
            tokens,
            config,
        })
    }

    /// Transformer layers, so that a caller can bound `clip_skip`.
    pub fn layers(&self) -> usize {
        self.config.layers
    }

    /// Width of the hidden states.
    pub fn width(&self) -> usize {
        self.config.hidden_size
    }

    /// Width of the pooled embedding; none without a projection.
    pub fn pooled_width(&self) -> Option<usize> {
        self.config.projection_dim
    }

    /// Prompts of the same length (at most `max_position_embeddings` ids) to `[batch, tokens, width]`.
    /// The last `clip_skip` layers are left out; the final norm is always applied.
    pub fn forward(&self, prompts: &[Vec<u32>], clip_skip: usize) -> Result<Tensor> {
        let hidden = self.hidden_states(prompts, self.layers.len().saturating_sub(clip_skip))?;
        self.final_norm.forward(&hidden)
    }

    /// Prompts of the same length to the hidden states that are wanted and, with a projection, the pooled embedding,
    /// which is always of the last layer.
    pub fn outputs(&self, prompts: &[Vec<u32>], wanted: HiddenStates) -> Result<TextOutput> {
        let (HiddenStates::Normed { skip } | HiddenStates::Raw { skip }) = wanted;
        let kept = self.layers.len().saturating_sub(skip);
        let raw = self.hidden_states(prompts, kept)?;
        let pooled = match &self.projection {
            Some(projection) => {
                let mut last = raw.clone();
                for layer in &self.layers[kept..] {
                    last = layer.forward(&last)?;
                }
                let ends = prompts.iter().enumerate().map(|(i, ids)| last.get(i)?.get(self.end_of(ids)));
                let ends = Tensor::stack(&ends.collect::<Result<Vec<_>>>()?, 0)?;
                Some(projection.forward(&self.final_norm.forward(&ends)?)?)
            }
            None => None,
        };
        let hidden = match wanted {
            HiddenStates::Normed { .. } => self.final_norm.forward(&raw)?,
            HiddenStates::Raw { .. } => raw,
        };
        Ok(TextOutput { hidden, pooled })
    }

    /// Embeddings and the first `kept` layers.
    fn hidden_states(&self, prompts: &[Vec<u32>], kept: usize) -> Result<Tensor> {
        let (batch, length) = (prompts.len(), prompts.first().map_or(0, Vec::len));
        let x = self.embed(&prompts.concat())?;
        let x = x.reshape((batch, length, self.config.hidden_size))?;
        let mut x = x.broadcast_add(&self.positions.narrow(0, 0, length)?.to_dtype(self.dtype)?)?;
        for layer in &self.layers[..kept] {
            x = layer.forward(&x)?;
        }
        Ok(x)
    }

    /// `[ids, width]`; words that were added are rows of their own table.
    fn embed(&self, ids: &[u32]) -> Result<Tensor> {
        let rows = |table: &Tensor, ids: Vec<u32>| {
            let ids = Tensor::new(ids, &self.device)?;
            ops::embedding(table, &ids, self.dtype)
        };
        let is_added = |id: &u32| *id >= ADDED;
        let Some(added) = self.added.as_ref().filter(|_| ids.iter().any(is_added)) else {
            return rows(&self.tokens, ids.to_vec());
        };
        let runs = ids.chunk_by(|a, b| is_added(a) == is_added(b));
        let runs = runs.map(|run| match run.iter().all(is_added) {
            true => rows(added, run.iter().map(|id| id - ADDED).collect()),
            false => rows(&self.tokens, run.to_vec()),
        });
        Tensor::cat(&runs.collect::<Result<Vec<_>>>()?, 0)
    }

    /// Adds vectors `[n, width]`, of the ids that follow those that were added before.
    ///
    /// # Errors
    /// What candle says.
    pub fn add_words(&mut self, vectors: &Tensor) -> Result<()> {
        let vectors = vectors.to_dtype(self.dtype)?;
        self.added = Some(match &self.added {
            Some(added) => Tensor::cat(&[added, &vectors], 0)?,
            None => vectors,
        });
        Ok(())
    }

    /// Where its weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Where a prompt ends, as transformers finds it; words that were added are not looked at.
    pub fn end_of(&self, ids: &[u32]) -> usize {
        let end = match self.config.eos_token_id {
            WRONG_EOS => ids.iter().copied().filter(|id| *id < ADDED).max(),
            id => Some(id),
        };
        ids.iter().position(|id| Some(*id) == end).unwrap_or(0)
    }

    /// Shows every layer with a weight that a LoRA can change to `visit`.
    pub fn visit(&mut self, visit: &mut Visit<'_>) {
        self.layers.iter_mut().for_each(|layer| layer.visit(visit));
        self.projection.iter_mut().for_each(|projection| projection.visit(visit));
    }
}

/// CLIPEncoderLayer.
#[derive(Clone)]
struct EncoderLayer {
    norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
    options: AttentionOptions,
}

impl EncoderLayer {
    fn load(at: &Scope<'_>, config: &TextConfig) -> std::result::Result<Self, DiffusionError> {
        let width = config.hidden_size;
        let attention = at.at("self_attn");
        let project = |name: &str| Linear::load(&attention.at(name), width, width);
        Ok(Self {
            norm1: LayerNorm::load(&at.at("layer_norm1"), width, config.layer_norm_eps)?,
            q: project("q_proj")?,
            k: project("k_proj")?,
            v: project("v_proj")?,
            out: project("out_proj")?,
            norm2: LayerNorm::load(&at.at("layer_norm2"), width, config.layer_norm_eps)?,
            fc1: Linear::load(&at.at("mlp.fc1"), width, config.intermediate_size)?,
            fc2: Linear::load(&at.at("mlp.fc2"), config.intermediate_size, width)?,
            activation: config.activation,
            options: AttentionOptions { heads: config.heads, causal: true, upcast: false },
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.norm1.forward(x)?;
        let h =
            ops::attention(&self.q.forward(&h)?, &self.k.forward(&h)?, &self.v.forward(&h)?, self.options)?;
        let x = (self.out.forward(&h)? + x)?;
        let h = self.fc1.forward(&self.norm2.forward(&x)?)?;
        self.fc2.forward(&ops::activate(&h, self.activation)?)? + x
    }

    fn visit(&mut self, visit: &mut Visit<'_>) {
        for linear in [&mut self.q, &mut self.k, &mut self.v, &mut self.out, &mut self.fc1, &mut self.fc2] {
            linear.visit(visit);
        }
    }
}
