//! AutoencoderTiny (TAESD): a small autoencoder over the latents of a large one, for quick looks and quick models.

use candle_core::{DType, Result, Tensor};

use super::TinyVaeConfig;
use crate::diffusion::{
    DiffusionError,
    checkpoint::Scope,
    layers::{Conv2d, ConvShape},
    ops,
};

/// Latents are pressed softly into plus and minus this before they are decoded.
const LATENT_BOUND: f64 = 3.0;

/// Encoder and decoder: convolutions and small residual blocks in one row each.
pub struct TinyVae {
    config: TinyVaeConfig,
    dtype: DType,
    encoder: Vec<Layer>,
    decoder: Vec<Layer>,
}

enum Layer {
    Conv(Conv2d),
    Relu,
    Block(Box<[Conv2d; 3]>),
    Upsample,
}

impl TinyVae {
    /// Reads all weights; `dtype` is the type that is computed in.
    pub fn load(
        config: TinyVaeConfig,
        at: &Scope<'_>,
        dtype: DType,
    ) -> std::result::Result<Self, DiffusionError> {
        Ok(Self {
            encoder: load_encoder(&at.at("encoder.layers"), &config)?,
            decoder: load_decoder(&at.at("decoder.layers"), &config)?,
            config,
            dtype,
        })
    }

    /// What the network is made of.
    pub fn config(&self) -> &TinyVaeConfig {
        &self.config
    }

    /// The type of its inputs and outputs.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// `pictures` `[batch, 3, height, width]` in -1..1 to `[batch, latent_channels, height / factor, width / factor]`.
    pub fn encode(&self, pictures: &Tensor) -> Result<Tensor> {
        run(&self.encoder, pictures.affine(0.5, 0.5)?)
    }

    /// `latents` `[batch, latent_channels, height, width]` to pictures in about -1..1.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let bounded = ((latents / LATENT_BOUND)?.tanh()? * LATENT_BOUND)?;
        run(&self.decoder, bounded)?.affine(2.0, -1.0)
    }
}

fn run(layers: &[Layer], mut x: Tensor) -> Result<Tensor> {
    for layer in layers {
        x = match layer {
            Layer::Conv(conv) => conv.forward(&x)?,
            Layer::Relu => ops::relu(&x)?,
            Layer::Block(block) => {
                let [first, second, third] = &**block;
                let h = ops::relu(&first.forward(&x)?)?;
                let h = ops::relu(&second.forward(&h)?)?;
                ops::relu(&third.forward_plus(&h, &x)?)?
            }
            Layer::Upsample => {
                let (_, _, height, width) = x.dims4()?;
                ops::upsample_nearest(&x, 2 * height, 2 * width)?
            }
        };
    }
    Ok(x)
}

/// Layers are counted over the whole row, as torch's `Sequential` counts them.
struct Row<'a> {
    at: &'a Scope<'a>,
    layers: Vec<Layer>,
}

impl Row<'_> {
    fn conv(
        &mut self,
        inputs: usize,
        outputs: usize,
        stride: usize,
        bias: bool,
    ) -> std::result::Result<(), DiffusionError> {
        let at = self.at.at(self.layers.len());
        let shape = ConvShape { inputs, outputs, kernel: 3, stride, padding: 1 };
        let conv = if bias { Conv2d::load(&at, shape)? } else { Conv2d::load_no_bias(&at, shape)? };
        self.layers.push(Layer::Conv(conv));
        Ok(())
    }

    fn blocks(&mut self, count: usize, channels: usize) -> std::result::Result<(), DiffusionError> {
        for _ in 0..count {
            let at = self.at.at(self.layers.len()).at("conv");
            let [a, b, c] = [0, 2, 4].map(|i| Conv2d::load_3x3(&at.at(i), channels, channels));
            self.layers.push(Layer::Block(Box::new([a?, b?, c?])));
        }
        Ok(())
    }
}

fn load_encoder(at: &Scope<'_>, config: &TinyVaeConfig) -> std::result::Result<Vec<Layer>, DiffusionError> {
    let mut row = Row { at, layers: Vec::new() };
    let channels = config.encoder_channels;
    for (i, count) in config.encoder_blocks.iter().enumerate() {
        match i {
            0 => row.conv(3, channels, 1, true)?,
            _ => row.conv(channels, channels, 2, false)?,
        }
        row.blocks(*count, channels)?;
    }
    row.conv(channels, config.latent_channels, 1, true)?;
    Ok(row.layers)
}

fn load_decoder(at: &Scope<'_>, config: &TinyVaeConfig) -> std::result::Result<Vec<Layer>, DiffusionError> {
    let mut row = Row { at, layers: Vec::new() };
    let channels = config.decoder_channels;
    row.conv(config.latent_channels, channels, 1, true)?;
    row.layers.push(Layer::Relu);
    let last = config.decoder_blocks.len() - 1;
    for (i, count) in config.decoder_blocks.iter().enumerate() {
        row.blocks(*count, channels)?;
        if i < last {
            row.layers.push(Layer::Upsample);
            row.conv(channels, channels, 1, false)?;
        }
    }
    row.conv(channels, 3, 1, true)?;
    Ok(row.layers)
}
