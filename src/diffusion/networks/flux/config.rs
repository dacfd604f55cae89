//! `transformer/config.json` of a FluxTransformer2DModel.

use crate::diffusion::{
    DiffusionError,
    checkpoint::{
        ConfigFile,
        limits::{MAX_HEADS, MAX_LATENT_CHANNELS, MAX_LAYERS, MAX_WIDTH},
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
