//! `vae/config.json` of an AutoencoderKL or an AutoencoderTiny.

use crate::diffusion::{
    DiffusionError,
    checkpoint::{
        ConfigFile,
        limits::{MAX_BLOCKS, MAX_LATENT_CHANNELS, MAX_LAYERS, MAX_VAE_CHANNELS},
    },
    ops::Activation,
};

/// What the autoencoder is made of. Lists have one entry per encoder block, from the picture inwards.
#[derive(Debug, Clone)]
pub struct VaeConfig {
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Channels of each block.
    pub block_out_channels: Vec<usize>,
    /// Residual layers of each encoder block; a decoder block has one more.
    pub layers_per_block: usize,
    /// Groups of every GroupNorm.
    pub norm_num_groups: usize,
    /// Activation of the residual blocks.
    pub activation: Activation,
    /// Latents times this have about unit variance.
    pub scaling_factor: f64,
    /// Subtracted from latents before scaling.
    pub shift_factor: f64,
    /// A 1x1 convolution after the encoder.
    pub use_quant_conv: bool,
    /// A 1x1 convolution before the decoder.
    pub use_post_quant_conv: bool,
    /// Attention in the middle blocks.
    pub mid_block_add_attention: bool,
    /// Computed in f32 even where its weights are kept in half precision, which its activations overflow.
    pub force_upcast: bool,
}

impl VaeConfig {
    /// Reads and checks the configuration.
    pub fn read(file: &ConfigFile) -> Result<Self, DiffusionError> {
        let block_out_channels = file.integers("block_out_channels")?;
        let blocks = block_out_channels.len();
        at_most_blocks(file, "block_out_channels", blocks)?;
        file.up_to("block_out_channels", &block_out_channels, MAX_VAE_CHANNELS)?;
        for (key, known) in
            [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")]
        {
            let found = file.names(key, &[known])?.len();
            if found != blocks {
                let expected = format!("{blocks} blocks, as many as in block_out_channels");
                return Err(file.unusable(key, &expected, found));
            }
        }
        file.only("in_channels", &[3.into()])?;
        file.only("out_channels", &[3.into()])?;
        file.only("latents_mean", &[])?;
        file.only("latents_std", &[])?;
        let norm_num_groups = file.integer_or("norm_num_groups", 32)?;
        if let Some(channels) = block_out_channels.iter().find(|channels| *channels % norm_num_groups != 0) {
            let expected = format!("a divisor of block_out_channels {channels}");
            return Err(file.unusable("norm_num_groups", &expected, norm_num_groups));
        }
        let (scaling_factor, shift_factor) = file.latent_scaling(0.18215)?;
        Ok(Self {
            latent_channels: file.integer_up_to("latent_channels", 4, MAX_LATENT_CHANNELS)?,
            block_out_channels,
            layers_per_block: file.integer_up_to("layers_per_block", 1, MAX_LAYERS)?,
            norm_num_groups,
            activation: file.activation_or("act_fn", "silu")?,
            scaling_factor,
            shift_factor,
            use_quant_conv: file.flag_or("use_quant_conv", true)?,
            use_post_quant_conv: file.flag_or("use_post_quant_conv", true)?,
            force_upcast: file.flag_or("force_upcast", false)?,
            mid_block_add_attention: file.flag_or("mid_block_add_attention", true)?,
        })
    }

    /// Pixels per latent along a side.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

/// The configuration of either autoencoder.
#[derive(Debug, Clone)]
pub enum AutoencoderConfig {
    /// AutoencoderKL.
    Kl(VaeConfig),
    /// AutoencoderTiny.
    Tiny(TinyVaeConfig),
}

impl AutoencoderConfig {
    /// Reads and checks the configuration of the class that it names.
    pub fn read(file: &ConfigFile) -> Result<Self, DiffusionError> {
        const CLASSES: [&str; 2] = ["AutoencoderKL", "AutoencoderTiny"];
        Ok(match file.name_or("_class_name", &CLASSES, 0)? {
            0 => Self::Kl(VaeConfig::read(file)?),
            _ => Self::Tiny(TinyVaeConfig::read(file)?),
        })
    }

    /// Channels of a latent.
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Kl(config) => config.latent_channels,
            Self::Tiny(config) => config.latent_channels,
        }
    }

    /// Pixels per latent along a side.
    pub fn factor(&self) -> usize {
        match self {
            Self::Kl(config) => config.factor(),
            Self::Tiny(config) => config.factor(),
        }
    }
}

/// What a tiny autoencoder is made of. Lists have one entry per level.
#[derive(Debug, Clone)]
pub struct TinyVaeConfig {
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Channels of the encoder.
    pub encoder_channels: usize,
    /// Residual blocks of each encoder level, from the picture inwards.
    pub encoder_blocks: Vec<usize>,
    /// Channels of the decoder.
    pub decoder_channels: usize,
    /// Residual blocks of each decoder level, from the latents outwards.
    pub decoder_blocks: Vec<usize>,
    /// As of [`VaeConfig`].
    pub scaling_factor: f64,
    /// As of [`VaeConfig`].
    pub shift_factor: f64,
}

impl TinyVaeConfig {
    /// Reads and checks the configuration.
    pub fn read(file: &ConfigFile) -> Result<Self, DiffusionError> {
        file.only("in_channels", &[3.into()])?;
        file.only("out_channels", &[3.into()])?;
        file.only("act_fn", &["relu".into()])?;
        file.only("upsample_fn", &["nearest".into()])?;
        file.only("upsampling_scaling_factor", &[2.into()])?;
        let encoder_blocks = file.integers("num_encoder_blocks")?;
        let decoder_blocks = file.integers("num_decoder_blocks")?;
        at_most_blocks(file, "num_encoder_blocks", encoder_blocks.len())?;
        file.up_to("num_encoder_blocks", &encoder_blocks, MAX_LAYERS)?;
        file.up_to("num_decoder_blocks", &decoder_blocks, MAX_LAYERS)?;
        if encoder_blocks.len() != decoder_blocks.len() {
            let expected = format!("{} levels, as many as in num_encoder_blocks", encoder_blocks.len());
            return Err(file.unusable("num_decoder_blocks", &expected, decoder_blocks.len()));
        }
        let (scaling_factor, shift_factor) = file.latent_scaling(1.0)?;
        Ok(Self {
            latent_channels: file.integer_up_to("latent_channels", 4, MAX_LATENT_CHANNELS)?,
            encoder_channels: one_width(file, "encoder_block_out_channels", encoder_blocks.len())?,
            decoder_channels: one_width(file, "decoder_block_out_channels", decoder_blocks.len())?,
            encoder_blocks,
            decoder_blocks,
            scaling_factor,
            shift_factor,
        })
    }

    /// Pixels per latent along a side.
    pub fn factor(&self) -> usize {
        1 << (self.encoder_blocks.len() - 1)
    }
}

/// Each block but one halves a picture's sides.
fn at_most_blocks(file: &ConfigFile, key: &str, blocks: usize) -> Result<(), DiffusionError> {
    match blocks > MAX_BLOCKS {
        true => Err(file.unusable(key, &format!("at most {MAX_BLOCKS} blocks"), blocks)),
        false => Ok(()),
    }
}

/// All levels have the same channels: nothing between them changes their number.
fn one_width(file: &ConfigFile, key: &str, levels: usize) -> Result<usize, DiffusionError> {
    let channels = file.integers(key)?;
    file.up_to(key, &channels, MAX_VAE_CHANNELS)?;
    if channels.len() != levels || channels.iter().any(|width| *width != channels[0]) {
        let found = serde_json::json!(channels);
        return Err(file.unusable(key, &format!("{levels} times the same number"), found));
    }
    Ok(channels[0])
}
