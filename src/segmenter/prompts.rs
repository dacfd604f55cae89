//! Embeddings of what is pointed at.
//!
//! Points go through candle-transformers' prompt encoder. A box does not: there (0.11.1) its two corners are laid side by side into
//! one token of twice the width, which no decoder takes. They are two tokens, and computed here.

use std::f32::consts::TAU;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::segment_anything::prompt_encoder::PromptEncoder;

use super::{EMBEDDING, PATCHES, fit::SIDE};
use crate::contract::{MaskBox, MaskPoint, Pointing};

/// Channels of a mask that is given as a hint. None is, but its weights are in the file.
const MASK_CHANNELS: usize = 16;

/// From points and boxes to tokens of [`EMBEDDING`] numbers.
pub struct Prompts {
    encoder: PromptEncoder,
    of_places: Tensor,
    without_mask: Tensor,
    /// `[2, 128]`: random frequencies for x, and for y.
    frequencies: [Vec<f32>; 2],
    /// What is added to the upper left corner of a box, and to the lower right one.
    corners: [Vec<f32>; 2],
}

impl Prompts {
    /// With the tensors below `vb`.
    pub fn new(vb: VarBuilder) -> Result<Self> {
        let (patches, side) = ((PATCHES, PATCHES), (SIDE as usize, SIDE as usize));
        let encoder = PromptEncoder::new(EMBEDDING, patches, side, MASK_CHANNELS, vb.clone())?;
        let of_places = encoder.get_dense_pe()?;
        let without_mask = vb.get((1, EMBEDDING), "no_mask_embed.weight")?;
        let without_mask =
            without_mask.reshape((1, EMBEDDING, 1, 1))?.expand((1, EMBEDDING, PATCHES, PATCHES))?;
        let frequencies =
            vb.get((2, EMBEDDING / 2), "pe_layer.positional_encoding_gaussian_matrix")?.to_vec2::<f32>()?;
        let corner = |index: usize| {
            vb.get((1, EMBEDDING), &format!("point_embeddings.{index}.weight"))?.flatten_all()?.to_vec1()
        };
        let [of_x, of_y] = <[Vec<f32>; 2]>::try_from(frequencies).expect("two rows were asked for");
        Ok(Self {
            encoder,
            of_places,
            without_mask,
            frequencies: [of_x, of_y],
            corners: [corner(2)?, corner(3)?],
        })
    }

    /// The embedding of every patch's place: `[1, 256, 64, 64]`.
    pub fn of_places(&self) -> &Tensor {
        &self.of_places
    }

    /// What stands for a mask that is not given: `[1, 256, 64, 64]`.
    pub fn without_mask(&self) -> &Tensor {
        &self.without_mask
    }

    /// `[1, tokens, 256]`: the points, then the corners of the box, or, without one, a token that stands for no point. `scale`
    /// is pixels of the square for one of the picture, to the right and down.
    pub fn sparse(&self, pointing: &Pointing, scale: (f64, f64)) -> Result<Tensor> {
        let points = match pointing.points() {
            [] => None,
            points => Some(self.points(points, scale)?),
        };
        match (points, pointing.around()) {
            (Some(points), None) => Ok(points),
            // The last token stands for no point; with a box there is none.
            (Some(points), Some(around)) => {
                let points = points.narrow(1, 0, pointing.points().len())?;
                Tensor::cat(&[&points, &self.corners(around, scale)?], 1)
            }
            (None, Some(around)) => self.corners(around, scale),
            (None, None) => Tensor::zeros((1, 0, EMBEDDING), DType::F32, &Device::Cpu),
        }
    }

    fn points(&self, points: &[MaskPoint], (right, down): (f64, f64)) -> Result<Tensor> {
        let places = points
            .iter()
            .flat_map(|point| [(f64::from(point.x) * right) as f32, (f64::from(point.y) * down) as f32]);
        let places = Tensor::from_iter(places, &Device::Cpu)?.reshape((1, points.len(), 2))?;
        let labels = points.iter().map(|point| if point.is_on_it { 1f32 } else { 0.0 });
        let labels = Tensor::from_iter(labels, &Device::Cpu)?.reshape((1, points.len()))?;
        Ok(self.encoder.forward(Some((&places, &labels)), None, None)?.0)
    }

    /// `[1, 2, 256]`.
    fn corners(&self, MaskBox { left, top, right, bottom }: MaskBox, scale: (f64, f64)) -> Result<Tensor> {
        let [first, last] = &self.corners;
        let tokens = [self.place((left, top), scale, first), self.place((right, bottom), scale, last)];
        Tensor::from_vec(tokens.concat(), (1, 2, EMBEDDING), &Device::Cpu)
    }

    /// Sines and cosines of a place, and `what` it is.
    fn place(&self, (x, y): (u32, u32), (right, down): (f64, f64), what: &[f32]) -> Vec<f32> {
        let within =
            |pixels: u32, scale: f64| 2.0 * ((f64::from(pixels) * scale) as f32 + 0.5) / SIDE as f32 - 1.0;
        let (x, y) = (within(x, right), within(y, down));
        let [of_x, of_y] = &self.frequencies;
        let angles = of_x.iter().zip(of_y).map(|(of_x, of_y)| TAU * (x * of_x + y * of_y));
        let waves = angles.clone().map(f32::sin).chain(angles.map(f32::cos));
        waves.zip(what).map(|(wave, what)| wave + what).collect()
    }
}
