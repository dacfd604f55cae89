//! `transformer/config.json` of a FluxTransformer2DModel and `text_encoder_2/config.json` of a T5EncoderModel.

use crate::diffusion::{
    Checkpoint, DiffusionError,
    config::{
        ConfigFile,
        limits::{MAX_BUCKETS, MAX_HEADS, MAX_LATENT_CHANNELS, MAX_LAYERS, MAX_WIDTH},
    },
};

/// What the transformer is made of.
#[derive(Debug, Clone)]
pub struct TransformerConfig {
    /// Numbers per picture token: 2 x 2 latents.
    pub in_channels: usize,
    /// Blocks with separate weights for text and picture.
    pub layers: usize,
    /// Blocks over both together.
    pub single_layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of a head.
    pub head_width: usize,
    /// Width of a T5 embedding.
    pub text_width: usize,
    /// Width of CLIP's pooled embedding.
    pub pooled_width: usize,
    /// Takes the guidance scale as an input (dev); schnell does not.
    pub guidance: bool,
    /// Numbers of a head that are rotated by each of a token's three positions.
    pub axes: Vec<usize>,
}

impl TransformerConfig {
    /// Reads and checks the configuration.
    pub fn read(file: &ConfigFile) -> Result<Self, DiffusionError> {
        file.only("patch_size", &[1.into()])?;
        let in_channels = file.integer_up_to("in_channels", 64, 4 * MAX_LATENT_CHANNELS)?;
        if in_channels % 4 != 0 {
            return Err(file.unusable("in_channels", "a multiple of 4 (2 x 2 latents)", in_channels));
        }
        file.only("out_channels", &[in_channels.into()])?;
        let head_width = file.integer_up_to("attention_head_dim", 128, MAX_WIDTH)?;
        let axes = match file.value("axes_dims_rope") {
            None => vec![16, 56, 56],
            Some(_) => file.integers("axes_dims_rope")?,
        };
        file.up_to("axes_dims_rope", &axes, MAX_WIDTH)?;
        let heads = file.integer_up_to("num_attention_heads", 24, MAX_HEADS)?;
        file.up_to("num_attention_heads", &[heads * head_width], MAX_WIDTH)?;
        if axes.len() != 3
            || axes.iter().any(|axis| axis % 2 != 0)
            || axes.iter().sum::<usize>() != head_width
        {
            let expected = format!("three even numbers whose sum is attention_head_dim {head_width}");
            return Err(file.unusable("axes_dims_rope", &expected, format!("{axes:?}")));
        }
        Ok(Self {
            in_channels,
            layers: file.integer_up_to("num_layers", 19, MAX_LAYERS)?,
            single_layers: file.integer_up_to("num_single_layers", 38, MAX_LAYERS)?,
            heads,
            head_width,
            text_width: file.integer_up_to("joint_attention_dim", 4096, MAX_WIDTH)?,
            pooled_width: file.integer_up_to("pooled_projection_dim", 768, MAX_WIDTH)?,
            guidance: file.flag_or("guidance_embeds", false)?,
            axes,
        })
    }

    /// Width of a token inside the network.
    pub fn width(&self) -> usize {
        self.heads * self.head_width
    }
}

/// What T5's encoder is made of.
#[derive(Debug, Clone)]
pub struct T5Config {
    /// Tokens known.
    pub vocab_size: usize,
    /// Width of an embedding.
    pub width: usize,
    /// Width of an attention head.
    pub head_width: usize,
    /// Width inside the feed-forward layers.
    pub inner_width: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Buckets of distances between tokens, half of them for each direction.
    pub buckets: usize,
    /// Distances from this on share the last bucket.
    pub max_distance: usize,
    /// Epsilon of the norms.
    pub eps: f64,
}

impl T5Config {
    /// Reads and checks the configuration.
    pub fn read(file: &ConfigFile) -> Result<Self, DiffusionError> {
        file.only("feed_forward_proj", &["gated-gelu".into()])?;
        if file.value("feed_forward_proj").is_none() {
            return Err(file.unusable("feed_forward_proj", "gated-gelu", "none (which means relu)"));
        }
        let buckets = file.integer_up_to("relative_attention_num_buckets", 32, MAX_BUCKETS)?;
        let max_distance = file.integer_or("relative_attention_max_distance", 128)?;
        if buckets % 4 != 0 {
            return Err(file.unusable("relative_attention_num_buckets", "a multiple of 4", buckets));
        }
        if max_distance <= buckets / 4 {
            let expected = format!("more than {}, the distances with a bucket each", buckets / 4);
            return Err(file.unusable("relative_attention_max_distance", &expected, max_distance));
        }
        Ok(Self {
            vocab_size: file.integer_or("vocab_size", 32128)?,
            width: file.integer_up_to("d_model", 512, MAX_WIDTH)?,
            head_width: file.integer_up_to("d_kv", 64, MAX_WIDTH)?,
            inner_width: file.integer_up_to("d_ff", 2048, MAX_WIDTH)?,
            layers: file.integer_up_to("num_layers", 6, MAX_LAYERS)?,
            heads: file.integer_up_to("num_heads", 8, MAX_HEADS)?,
            buckets,
            max_distance,
            eps: file.epsilon_or("layer_norm_epsilon", 1e-6)?,
        })
    }
}

/// diffusers' pipelines of this family; they have the same components.
const PIPELINES: [&str; 3] = ["FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline"];

/// Whether a checkpoint says that it is of this family.
pub fn is_flux(checkpoint: &Checkpoint) -> bool {
    checkpoint.index().text("_class_name").is_ok_and(|class| PIPELINES.contains(&class))
}

/// Refuses a checkpoint of another family, or with a component of another class.
pub fn check_pipeline(checkpoint: &Checkpoint) -> Result<(), DiffusionError> {
    let index = checkpoint.index();
    if !is_flux(checkpoint) {
        let expected = format!("one of {}", PIPELINES.join(", "));
        return Err(index.unusable("_class_name", &expected, index.text("_class_name")?));
    }
    for (component, class) in [
        ("transformer", "FluxTransformer2DModel"),
        ("vae", "AutoencoderKL"),
        ("text_encoder", "CLIPTextModel"),
        ("text_encoder_2", "T5EncoderModel"),
        ("scheduler", "FlowMatchEulerDiscreteScheduler"),
    ] {
        let found = checkpoint.class_of(component);
        if found != Some(class) {
            return Err(index.unusable(component, class, found.unwrap_or("none")));
        }
    }
    Ok(())
}
