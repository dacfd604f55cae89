//! The residual block and the two samplers of the autoencoder (diffusers' ResnetBlock2D, Downsample2D, Upsample2D), over
//! maps in bands: a map is forgotten while what is made of it grows.

use candle_core::Result;

use crate::diffusion::{
    DiffusionError,
    autoencoders::VaeConfig,
    checkpoint::Scope,
    layers::{Conv2d, ConvShape, GroupNorm},
    ops::{Activation, Bands, View},
};

/// Epsilon that diffusers fixes for this model.
pub const EPS: f64 = 1e-6;

/// A convolution of 3x3 pixels that leaves the zeros around a map to [`View`].
pub fn load_3x3(
    at: &Scope<'_>,
    inputs: usize,
    outputs: usize,
    stride: usize,
) -> std::result::Result<Conv2d, DiffusionError> {
    Conv2d::load(at, ConvShape { inputs, outputs, kernel: 3, stride, padding: 0 })
}

/// A norm over the map if there is one, and a 3x3 convolution that keeps the size.
pub fn convolve(mut x: Bands, norm: Option<(&GroupNorm, Activation)>, conv: &Conv2d) -> Result<Bands> {
    let norm = norm.map(|(norm, activation)| norm.over(&x, activation)).transpose()?;
    let mut out = x.like();
    for rows in x.parts()? {
        let seen = x.see(&View { norm: norm.as_ref(), ..View::around(&rows) })?;
        x.forget_before(rows.end - 1);
        out.push(conv.forward_seen(&seen)?)?;
    }
    Ok(out)
}

/// Norm, activation, convolution, twice.
pub struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
    activation: Activation,
}

impl ResnetBlock {
    /// Reads a block from `inputs` to `outputs` channels.
    pub fn load(
        at: &Scope<'_>,
        inputs: usize,
        outputs: usize,
        config: &VaeConfig,
    ) -> std::result::Result<Self, DiffusionError> {
        Ok(Self {
            norm1: GroupNorm::load(&at.at("norm1"), inputs, config.norm_num_groups, EPS)?,
            conv1: load_3x3(&at.at("conv1"), inputs, outputs, 1)?,
            norm2: GroupNorm::load(&at.at("norm2"), outputs, config.norm_num_groups, EPS)?,
            conv2: load_3x3(&at.at("conv2"), outputs, outputs, 1)?,
            shortcut: match inputs == outputs {
                true => None,
                false => Some(Conv2d::load_1x1(&at.at("conv_shortcut"), inputs, outputs)?),
            },
            activation: config.activation,
        })
    }

    /// `[batch, inputs, height, width]` to as many outputs.
    pub fn forward(&self, x: Bands) -> Result<Bands> {
        let (mut h, mut residual) = self.first_half(x)?;
        let norm = self.norm2.over(&h, self.activation)?;
        let mut out = h.like();
        for rows in h.parts()? {
            let seen = h.see(&View { norm: Some(&norm), ..View::around(&rows) })?;
            h.forget_before(rows.end - 1);
            out.push(self.conv2.forward_seen_plus(&seen, &residual.rows(rows.clone())?)?)?;
            residual.forget_before(rows.end);
        }
        Ok(out)
    }

    /// What the second norm is over, and what the second convolution is added to. Where a shortcut makes that, `x` is
    /// not kept.
    fn first_half(&self, mut x: Bands) -> Result<(Bands, Bands)> {
        let norm = self.norm1.over(&x, self.activation)?;
        let (mut h, mut residual) = (x.like(), x.like());
        for rows in x.parts()? {
            let seen = x.see(&View { norm: Some(&norm), ..View::around(&rows) })?;
            h.push(self.conv1.forward_seen(&seen)?)?;
            if let Some(shortcut) = &self.shortcut {
                residual.push(shortcut.forward(&x.rows(rows.clone())?)?)?;
                x.forget_before(rows.end - 1);
            }
        }
        Ok((h, if self.shortcut.is_some() { residual } else { x }))
    }
}

/// Half the size by a convolution of stride 2, with a row and a column of zeros after the last, as diffusers adds them.
pub struct Downsample(Conv2d);

impl Downsample {
    /// Reads the convolution.
    pub fn load(at: &Scope<'_>, channels: usize) -> std::result::Result<Self, DiffusionError> {
        Ok(Self(load_3x3(&at.at("conv"), channels, channels, 2)?))
    }

    /// `[batch, channels, height, width]` to half of it.
    pub fn forward(&self, mut x: Bands) -> Result<Bands> {
        let mut out = x.like();
        for rows in x.cut(x.height() / 2, x.width()? / 2) {
            let (first, last) = (2 * rows.start, 2 * rows.end);
            let seen = x.see(&View {
                rows: first as isize..last as isize + 1,
                times: 1,
                columns: (0, 1),
                norm: None,
            })?;
            x.forget_before(last);
            out.push(self.0.forward_seen(&seen)?)?;
        }
        Ok(out)
    }
}

/// Twice the size by nearest neighbour, then a convolution.
pub struct Upsample(Conv2d);

impl Upsample {
    /// Reads the convolution.
    pub fn load(at: &Scope<'_>, channels: usize) -> std::result::Result<Self, DiffusionError> {
        Ok(Self(load_3x3(&at.at("conv"), channels, channels, 1)?))
    }

    /// `[batch, channels, height, width]` to twice of it.
    pub fn forward(&self, mut x: Bands) -> Result<Bands> {
        let mut out = x.like();
        for rows in x.cut(2 * x.height(), 2 * x.width()?) {
            let seen = x.see(&View { times: 2, ..View::around(&rows) })?;
            x.forget_before((rows.end - 1) / 2);
            out.push(self.0.forward_seen(&seen)?)?;
        }
        Ok(out)
    }
}
