//! `transformer/config.json` of a ZImageTransformer2DModel.

use crate::diffusion::{
    DiffusionError,
    checkpoint::{
        ConfigFile,
        limits::{MAX_HEADS, MAX_LATENT_CHANNELS, MAX_LAYERS, MAX_WIDTH},
    },
};

/// Latents along a side of what is one token.
pub const PATCH: usize = 2;
/// The widest embedding of time.
const MAX_TIME: usize = 256;

/// What the transformer is made of.
#[derive(Debug, Clone)]
pub struct TransformerConfig {
    /// Channels of a latent.
    pub channels: usize,
    /// Width of a token.
    pub width: usize,
    /// Blocks over picture and caption together.
    pub layers: usize,
    /// Blocks over each of them before.
    pub refiner_layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Epsilon of the norms.
    pub eps: f64,
    /// Width of an embedding of the caption.
    pub caption_width: usize,
    /// Base of the rotations' periods.
    pub theta: f64,
    /// Times are multiplied by this before they are embedded.
    pub time_scale: f64,
    /// Numbers of a head that are turned by each of a token's three positions.
    pub axes: Vec<usize>,
}

impl TransformerConfig {
    /// Reads and checks the configuration; a variant that is not computed here is refused by its key.
    ///
    /// # Errors
    /// The key that cannot be used, what was expected and what was found.
    pub fn read(file: &ConfigFile) -> Result<Self, DiffusionError> {
        file.only("all_patch_size", &[[PATCH].as_slice().into()])?;
        file.only("all_f_patch_size", &[[1].as_slice().into()])?;
        file.only("qk_norm", &[true.into()])?;
        file.only("siglip_feat_dim", &[])?;
        let width = file.integer_up_to("dim", 3840, MAX_WIDTH)?;
        let heads = file.integer_up_to("n_heads", 30, MAX_HEADS)?;
        if width % heads != 0 {
            return Err(file.unusable("n_heads", &format!("a divisor of dim {width}"), heads));
        }
        file.only("n_kv_heads", &[heads.into()])?;
        let axes = match file.value("axes_dims") {
            None => vec![32, 48, 48],
            Some(_) => file.integers("axes_dims")?,
        };
        let head_width = width / heads;
        file.up_to("axes_dims", &axes, MAX_WIDTH)?;
        if axes.len() != 3
            || axes.iter().any(|axis| axis % 2 != 0)
            || axes.iter().sum::<usize>() != head_width
        {
            let expected = format!("three even numbers whose sum is dim / n_heads {head_width}");
            return Err(file.unusable("axes_dims", &expected, format!("{axes:?}")));
        }
        let positive = |key: &str, default: f64| {
            let found = file.number_or(key, default)?;
            match found.is_finite() && found > 0.0 {
                true => Ok(found),
                false => Err(file.unusable(key, "a number above 0", found)),
            }
        };
        Ok(Self {
            channels: file.integer_up_to("in_channels", 16, MAX_LATENT_CHANNELS)?,
            width,
            layers: file.integer_up_to("n_layers", 30, MAX_LAYERS)?,
            refiner_layers: file.integer_up_to("n_refiner_layers", 2, MAX_LAYERS)?,
            heads,
            eps: file.epsilon_or("norm_eps", 1e-5)?,
            caption_width: file.integer_up_to("cap_feat_dim", 2560, MAX_WIDTH)?,
            theta: positive("rope_theta", 256.0)?,
            time_scale: positive("t_scale", 1000.0)?,
            axes,
        })
    }

    /// Width of a head.
    pub fn head_width(&self) -> usize {
        self.width / self.heads
    }

    /// Width inside the feed-forward layers.
    pub fn inner_width(&self) -> usize {
        (self.width as f64 / 3.0 * 8.0) as usize
    }

    /// Width of the embedded time.
    pub fn time_width(&self) -> usize {
        self.width.min(MAX_TIME)
    }

    /// Numbers of a token of the picture.
    pub fn token(&self) -> usize {
        self.channels * PATCH * PATCH
    }
}
