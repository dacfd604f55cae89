//! `unet/config.json` of a UNet2DConditionModel.

use serde_json::json;

use crate::{
    contract::limits::{MAX_SIDE, MIN_SIDE},
    diffusion::{
        DiffusionError,
        checkpoint::{
            ConfigFile,
            limits::{
                MAX_BLOCKS, MAX_CHANNELS, MAX_HEADS, MAX_KERNEL, MAX_LATENT_CHANNELS, MAX_LAYERS, MAX_SAMPLE,
                MAX_WIDTH,
            },
        },
        ops::Activation,
    },
};

/// What the UNet is made of. Lists have one entry per down block, from the picture inwards.
#[derive(Debug, Clone)]
pub struct UNetConfig {
    /// Height and width of the latents it was trained on.
    pub sample_size: (usize, usize),
    /// 4, or 9 for inpainting (latents, mask, masked picture's latents).
    pub in_channels: usize,
    /// Latent channels.
    pub out_channels: usize,
    /// Cosine before sine in the timestep embedding.
    pub flip_sin_to_cos: bool,
    /// Shift of the frequencies in the timestep embedding.
    pub freq_shift: f64,
    /// Whether a down block has cross attention.
    pub down_cross_attention: Vec<bool>,
    /// Whether an up block has cross attention, from the middle outwards.
    pub up_cross_attention: Vec<bool>,
    /// Channels of each block.
    pub block_out_channels: Vec<usize>,
    /// Residual layers of each block.
    pub layers_per_block: Vec<usize>,
    /// Transformer layers in each attention of a block.
    pub transformer_layers: Vec<usize>,
    /// Attention heads of each block.
    pub heads: Vec<usize>,
    /// Width of the text embeddings that each block attends to.
    pub cross_attention_dim: Vec<usize>,
    /// Padding of the down sampling convolutions.
    pub downsample_padding: usize,
    /// Activation of the residual blocks and the time embedding.
    pub activation: Activation,
    /// Groups of every GroupNorm.
    pub norm_num_groups: usize,
    /// Epsilon of the GroupNorms in residual blocks.
    pub norm_eps: f64,
    /// Linear layers, not 1x1 convolutions, around the transformers.
    pub use_linear_projection: bool,
    /// Attention scores in f32 whatever the compute type.
    pub upcast_attention: bool,
    /// Kernel side of the first convolution.
    pub conv_in_kernel: usize,
    /// Kernel side of the last convolution.
    pub conv_out_kernel: usize,
    /// Width of the time embedding.
    pub time_embed_dim: usize,
    /// What SDXL adds to the time embedding: pooled text and sizes.
    pub addition: Option<AdditionConfig>,
    /// Width of the embedded guidance scale that distilled models (LCM) take.
    pub time_cond_proj_dim: Option<usize>,
}

/// The `text_time` addition of SDXL.
#[derive(Debug, Clone, Copy)]
pub struct AdditionConfig {
    /// Width of one embedded size.
    pub time_embed_dim: usize,
    /// Width of pooled text and all embedded sizes together.
    pub inputs: usize,
}

impl UNetConfig {
    /// Reads and checks the configuration; a variant that is not computed here is refused by its key.
    pub fn read(file: &ConfigFile) -> Result<Self, DiffusionError> {
        refuse_variants(file)?;
        let block_out_channels = file.integers("block_out_channels")?;
        let blocks = block_out_channels.len();
        if blocks > MAX_BLOCKS {
            return Err(file.unusable("block_out_channels", &format!("at most {MAX_BLOCKS} blocks"), blocks));
        }
        file.up_to("block_out_channels", &block_out_channels, MAX_CHANNELS)?;
        let down = file.names("down_block_types", &["DownBlock2D", "CrossAttnDownBlock2D"])?;
        let up = file.names("up_block_types", &["UpBlock2D", "CrossAttnUpBlock2D"])?;
        for (key, list) in [("down_block_types", &down), ("up_block_types", &up)] {
            if list.len() != blocks {
                let expected = format!("{blocks} blocks, as many as in block_out_channels");
                return Err(file.unusable(key, &expected, list.len()));
            }
        }
        let norm_num_groups = file.integer_or("norm_num_groups", 32)?;
        let per_block = |key: &str, default: usize, most: usize| {
            let found = file.per_block(key, default, blocks)?;
            file.up_to(key, &found, most)?;
            Ok::<_, DiffusionError>(found)
        };
        let heads = per_block("attention_head_dim", 8, MAX_HEADS)?;
        for (channels, heads) in block_out_channels.iter().zip(&heads) {
            if channels % norm_num_groups != 0 {
                let expected = format!("a divisor of block_out_channels {channels}");
                return Err(file.unusable("norm_num_groups", &expected, norm_num_groups));
            }
            if channels % heads != 0 {
                let expected = format!("a divisor of block_out_channels {channels}");
                return Err(file.unusable("attention_head_dim", &expected, heads));
            }
        }
        let in_channels = file.integer_or("in_channels", 4)?;
        let out_channels = file.integer_up_to("out_channels", 4, MAX_LATENT_CHANNELS)?;
        if in_channels != out_channels && in_channels != 2 * out_channels + 1 {
            let expected = format!(
                "{out_channels} (latents) or {} (with mask and masked picture)",
                2 * out_channels + 1
            );
            return Err(file.unusable("in_channels", &expected, in_channels));
        }
        let sample_size = match file.value("sample_size") {
            Some(serde_json::Value::Array(_)) => match file.integers("sample_size")?[..] {
                [height, width] => (height, width),
                _ => return Err(file.unusable("sample_size", "a number or two", "another count")),
            },
            _ => {
                let side = file.integer_or("sample_size", 64)?;
                (side, side)
            }
        };
        file.up_to("sample_size", &[sample_size.0, sample_size.1], MAX_SAMPLE)?;
        let addition = match file.value("addition_embed_type") {
            None => None,
            Some(_) => {
                file.only("addition_embed_type", &[json!("text_time")])?;
                let up_to_width = |key: &str| {
                    let found = file.integer(key)?;
                    file.up_to(key, &[found], MAX_WIDTH)?;
                    Ok::<_, DiffusionError>(found)
                };
                Some(AdditionConfig {
                    time_embed_dim: up_to_width("addition_time_embed_dim")?,
                    inputs: up_to_width("projection_class_embeddings_input_dim")?,
                })
            }
        };
        let time_cond_proj_dim = match file.value("time_cond_proj_dim") {
            None => None,
            Some(_) => Some(file.integer_up_to("time_cond_proj_dim", 1, MAX_WIDTH)?),
        };
        // Published models have 0 or 1: the waves of another may all be of no length.
        let freq_shift = file.number_or("freq_shift", 0.0)?;
        if freq_shift != 0.0 && freq_shift != 1.0 {
            return Err(file.unusable("freq_shift", "0 or 1", freq_shift));
        }
        let downsample_padding = file.natural_or("downsample_padding", 1)?;
        if downsample_padding > 1 {
            return Err(file.unusable("downsample_padding", "0 or 1", downsample_padding));
        }
        Ok(Self {
            addition,
            time_cond_proj_dim,
            sample_size,
            in_channels,
            out_channels,
            flip_sin_to_cos: file.flag_or("flip_sin_to_cos", true)?,
            freq_shift,
            down_cross_attention: down.iter().map(|kind| *kind == 1).collect(),
            up_cross_attention: up.iter().map(|kind| *kind == 1).collect(),
            layers_per_block: per_block("layers_per_block", 2, MAX_LAYERS)?,
            transformer_layers: per_block("transformer_layers_per_block", 1, MAX_LAYERS)?,
            heads,
            cross_attention_dim: per_block("cross_attention_dim", 1280, MAX_WIDTH)?,
            downsample_padding,
            activation: file.activation_or("act_fn", "silu")?,
            norm_num_groups,
            norm_eps: file.epsilon_or("norm_eps", 1e-5)?,
            use_linear_projection: file.flag_or("use_linear_projection", false)?,
            upcast_attention: file.flag_or("upcast_attention", false)?,
            conv_in_kernel: kernel(file, "conv_in_kernel")?,
            conv_out_kernel: kernel(file, "conv_out_kernel")?,
            time_embed_dim: file.integer_up_to("time_embedding_dim", 4 * block_out_channels[0], MAX_WIDTH)?,
            block_out_channels,
        })
    }
}

impl UNetConfig {
    /// Refuses a network that cannot draw what jobs may ask of it with an autoencoder of so many pixels per latent: a
    /// picture of the size that it was trained on, and the smallest there is.
    pub fn check_sizes(&self, file: &ConfigFile, factor: usize) -> Result<(), DiffusionError> {
        let (smallest, largest) = (MIN_SIDE as usize, MAX_SIDE as usize);
        for side in [self.sample_size.0, self.sample_size.1] {
            if !(smallest..=largest).contains(&(side * factor)) {
                let expected = format!("a size of {smallest} to {largest} pixels, {factor} for each latent");
                return Err(file.unusable("sample_size", &expected, side));
            }
        }
        // Without padding each block halves downwards, and the last must have something to look at.
        let blocks = self.block_out_channels.len();
        if self.downsample_padding == 0 && smallest.div_ceil(factor) >> (blocks - 1) == 0 {
            let expected = format!("1 for {blocks} blocks and {factor} pixels for each latent");
            return Err(file.unusable("downsample_padding", &expected, 0));
        }
        Ok(())
    }
}

/// An odd side, which keeps the size of a map.
fn kernel(file: &ConfigFile, key: &str) -> Result<usize, DiffusionError> {
    let found = file.integer_or(key, 3)?;
    match found % 2 == 1 && found <= MAX_KERNEL {
        true => Ok(found),
        false => Err(file.unusable(key, &format!("an odd number up to {MAX_KERNEL}"), found)),
    }
}

/// Keys that switch on parts of a UNet2DConditionModel which no model of a family served here has.
fn refuse_variants(file: &ConfigFile) -> Result<(), DiffusionError> {
    file.only("mid_block_type", &[json!("UNetMidBlock2DCrossAttn")])?;
    file.only("time_embedding_type", &[json!("positional")])?;
    file.only("resnet_time_scale_shift", &[json!("default")])?;
    file.only("attention_type", &[json!("default")])?;
    file.only("resnet_out_scale_factor", &[json!(1), json!(1.0)])?;
    file.only("mid_block_scale_factor", &[json!(1), json!(1.0)])?;
    for switch in [
        "center_input_sample",
        "class_embeddings_concat",
        "dual_cross_attention",
        "only_cross_attention",
        "mid_block_only_cross_attention",
        "resnet_skip_time_act",
    ] {
        file.only(switch, &[json!(false)])?;
    }
    for part in [
        "class_embed_type",
        "cross_attention_norm",
        "encoder_hid_dim",
        "encoder_hid_dim_type",
        "num_attention_heads",
        "num_class_embeds",
        "reverse_transformer_layers_per_block",
        "time_embedding_act_fn",
        "timestep_post_act",
    ] {
        file.only(part, &[])?;
    }
    Ok(())
}
