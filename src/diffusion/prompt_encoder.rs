//! Tokenizers and text encoders of a checkpoint together: prompts to what the network attends to.

use candle_core::{DType, Device, Tensor};

use super::{
    Checkpoint, DiffusionError,
    config::{Family, TextConfig},
    text_encoder::{HiddenStates, TextEncoder},
    tokenizer::ClipTokenizer,
};

/// SDXL attends to the last hidden states but one.
const XL_SKIP: usize = 1;

/// One encoder, or SDXL's two, each with its tokenizer.
pub struct PromptEncoder {
    parts: Vec<(ClipTokenizer, TextEncoder)>,
    family: Family,
}

/// A prompt and its negative, as a request has them.
pub struct Prompts<'a> {
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
}

impl PromptEncoder {
    /// Reads the encoders of a family and their tokenizers. Returns the bytes of their weights too.
    pub fn load(
        checkpoint: &Checkpoint,
        family: Family,
        device: &Device,
        dtype: DType,
    ) -> Result<(Self, u64), DiffusionError> {
        let mut parts = Vec::new();
        let mut bytes = 0;
        for (component, tokenizer, class) in family.text_encoders(checkpoint) {
            let projects = class == "CLIPTextModelWithProjection";
            let config = TextConfig::read(&checkpoint.config(component)?, projects)?;
            let tokenizer = checkpoint.tokenizer(tokenizer, &config)?;
            let weights = checkpoint.weights(component, device, dtype)?;
            parts.push((tokenizer, TextEncoder::load(config, &weights.root())?));
            bytes += weights.bytes_taken();
        }
        Ok((Self { parts, family }, bytes))
    }

    /// The first tokenizer.
    pub fn tokenizer(&self) -> &ClipTokenizer {
        &self.parts[0].0
    }

    /// The encoders, SDXL's larger one last.
    pub fn encoders(&self) -> impl Iterator<Item = &TextEncoder> {
        self.parts.iter().map(|(_, encoder)| encoder)
    }

    /// Width of the embeddings of all encoders together.
    pub fn width(&self) -> usize {
        self.encoders().map(TextEncoder::width).sum()
    }

    /// Width of the pooled embedding, 0 without one.
    pub fn pooled_width(&self) -> usize {
        self.encoders().filter_map(TextEncoder::pooled_width).sum()
    }

    /// Embeds the prompts; what had to be cut is said in `warnings`.
    pub fn encode(
        &self,
        prompts: &Prompts<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Encoded, DiffusionError> {
        let skip = prompts.clip_skip as usize;
        let most = self.encoders().map(TextEncoder::layers).min().unwrap_or(0) - self.own_skip();
        if skip > most {
            let reason = format!("{skip}; the text encoder has {most} layers to leave out");
            return Err(DiffusionError::request("clip_skip", reason));
        }
        let positive = self.encode_one("prompt", prompts.positive, skip, warnings)?;
        if !prompts.guided {
            return Ok(positive);
        }
        let negative = match (self.family, prompts.negative) {
            (Family::Xl { zeros_for_no_negative: true, .. }, None) => Encoded {
                text: positive.text.zeros_like()?,
                pooled: positive.pooled.as_ref().map(Tensor::zeros_like).transpose()?,
            },
            (_, text) => self.encode_one("negative_prompt", text.unwrap_or(""), 0, warnings)?,
        };
        let cat = |negative: Tensor, positive: Tensor| Tensor::cat(&[negative, positive], 0);
        Ok(Encoded {
            text: cat(negative.text, positive.text)?,
            pooled: negative.pooled.zip(positive.pooled).map(|(n, p)| cat(n, p)).transpose()?,
        })
    }

    fn own_skip(&self) -> usize {
        match self.family {
            Family::StableDiffusion => 0,
            Family::Xl { .. } => XL_SKIP,
        }
    }

    /// `[1, tokens, width]`: each encoder's hidden states side by side; the pooled embedding is the last encoder's.
    fn encode_one(
        &self,
        field: &str,
        text: &str,
        skip: usize,
        warnings: &mut Vec<String>,
    ) -> Result<Encoded, DiffusionError> {
        let wanted = match self.family {
            Family::StableDiffusion => HiddenStates::Normed { skip },
            Family::Xl { .. } => HiddenStates::Raw { skip: skip + XL_SKIP },
        };
        let (mut hidden, mut pooled) = (Vec::new(), None);
        for (i, (tokenizer, encoder)) in self.parts.iter().enumerate() {
            let tokens = tokenizer.encode(text)?;
            if let (0, Some(cut)) = (i, tokens.cut) {
                let length = tokenizer.length();
                warnings.push(format!("`{field}` was cut at {length} tokens; left out: {cut}"));
            }
            let output = encoder.outputs(&[tokens.ids], wanted)?;
            hidden.push(output.hidden);
            pooled = output.pooled.or(pooled);
        }
        Ok(Encoded { text: Tensor::cat(&hidden, 2)?, pooled })
    }
}
