//! Queries, keys and values of a stream of tokens, and the rotation that tells tokens where they are.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use candle_core::{DType, Device, Result, Tensor};

use super::TransformerConfig;
use crate::diffusion::{
    DiffusionError,
    checkpoint::Scope,
    layers::{Linear, Rotation},
    lora::Visit,
};

/// Epsilon that diffusers fixes for the norms of queries and keys.
const EPS: f32 = 1e-6;
/// Base of the rotations' periods (Su et al. 2021).
const THETA: f64 = 10_000.0;

/// The layers' names for the picture's tokens, and for all tokens in a single block.
pub const PICTURE: [&str; 5] = ["to_q", "to_k", "to_v", "norm_q", "norm_k"];
/// The layers' names for the text's tokens.
pub const TEXT: [&str; 5] = ["add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k"];

/// The layers before attention.
#[derive(Clone)]
pub struct Projections {
    q: Linear,
    k: Linear,
    v: Linear,
    /// `[head_width]`, in f32: torch computes this norm in f32 whatever its weights are.
    norm_q: Tensor,
    norm_k: Tensor,
    heads: usize,
}

impl Projections {
    /// Reads `attn`.
    pub fn load(
        at: &Scope<'_>,
        [q, k, v, norm_q, norm_k]: [&str; 5],
        config: &TransformerConfig,
    ) -> std::result::Result<Self, DiffusionError> {
        let width = config.width();
        let norm = |name: &str| -> std::result::Result<Tensor, DiffusionError> {
            Ok(at.at(name).tensor("weight", &[config.head_width])?.to_dtype(DType::F32)?)
        };
        Ok(Self {
            q: Linear::load(&at.at(q), width, width)?,
            k: Linear::load(&at.at(k), width, width)?,
            v: Linear::load(&at.at(v), width, width)?,
            norm_q: norm(norm_q)?,
            norm_k: norm(norm_k)?,
            heads: config.heads,
        })
    }

    /// Queries and keys `[batch, tokens, heads, head_width]` in f32, normalised; values `[batch, tokens, width]`.
    pub fn forward(&self, x: &Tensor) -> Result<[Tensor; 3]> {
        let (batch, tokens, _) = x.dims3()?;
        let normalised = |x: Tensor, weight: &Tensor| {
            let x = x.reshape((batch, tokens, self.heads, ()))?.to_dtype(DType::F32)?;
            candle_nn::ops::rms_norm(&x.contiguous()?, weight, EPS)
        };
        Ok([
            normalised(self.q.forward(x)?, &self.norm_q)?,
            normalised(self.k.forward(x)?, &self.norm_k)?,
            self.v.forward(x)?,
        ])
    }

    /// Shows the layers to `visit`.
    pub fn visit(&mut self, visit: &mut Visit<'_>) {
        for layer in [&mut self.q, &mut self.k, &mut self.v] {
            layer.visit(visit);
        }
    }
}

/// The rotations of the last grids: computing one takes some hundred thousand sines, in f64 on the host.
#[derive(Default)]
pub struct Rotations(Mutex<VecDeque<(Grid, Rotation)>>);

/// Words, and rows and columns of picture tokens.
type Grid = (usize, (usize, usize));

impl Rotations {
    /// Grids that are kept: the one that was computed first goes for another.
    const KEPT: usize = 8;

    /// That of a grid; see [`rotation`].
    pub fn get(&self, axes: &[usize], grid: Grid, device: &Device) -> Result<Rotation> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, rotation)) = kept.iter().find(|(of, _)| *of == grid) {
            return Ok(rotation.clone());
        }
        let rotation = rotation(axes, grid.0, grid.1, device)?;
        if kept.len() == Self::KEPT {
            kept.pop_front();
        }
        kept.push_back((grid, rotation.clone()));
        Ok(rotation)
    }
}

/// Each pair of a head's numbers is turned by an angle that grows with one of the token's three positions. Words are all at
/// (0, 0, 0), picture tokens at (0, row, column). `axes`: how many of a head's numbers turn with each position.
fn rotation(
    axes: &[usize],
    words: usize,
    (rows, columns): (usize, usize),
    device: &Device,
) -> Result<Rotation> {
    let places = (0..words).map(|_| [0, 0, 0]);
    let places = places.chain((0..rows * columns).map(|i| [0, i / columns, i % columns]));
    let angles: Vec<f64> = places
        .flat_map(|place| {
            axes.iter().zip(place).flat_map(|(&axis, position)| {
                (0..axis)
                    .step_by(2)
                    .map(move |i| position as f64 * (1.0 / THETA.powf(i as f64 / axis as f64)))
            })
        })
        .collect();
    Rotation::new(&angles, axes.iter().sum::<usize>() / 2, device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rotation_of_a_grid_is_computed_once_while_it_is_among_the_last() {
        let rotations = Rotations::default();
        let get = |columns: usize| rotations.get(&[2, 4, 4], (3, (2, columns)), &Device::Cpu).unwrap();
        let first = get(4);
        assert_eq!(first.cos.dims(), [3 + 2 * 4, 5]);
        assert_eq!(get(4).cos.id(), first.cos.id());
        let fresh = rotation(&[2, 4, 4], 3, (2, 4), &Device::Cpu).unwrap();
        assert_eq!(fresh.sin.to_vec2::<f32>().unwrap(), first.sin.to_vec2::<f32>().unwrap());
        (5..5 + Rotations::KEPT).for_each(|columns| drop(get(columns)));
        assert_ne!(get(4).cos.id(), first.cos.id());
        assert_eq!(rotations.0.lock().unwrap().len(), Rotations::KEPT);
    }
}
