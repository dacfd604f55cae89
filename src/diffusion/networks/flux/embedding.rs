//! Numbers and the pooled text to what every block is modulated by.

use candle_core::{Result, Tensor};

use crate::diffusion::{
    DiffusionError,
    checkpoint::Scope,
    layers::{Linear, WAVES},
    lora::Visit,
};

/// Two linear layers with a SiLU between.
#[derive(Clone)]
pub struct Embedding {
    linear_1: Linear,
    linear_2: Linear,
}

impl Embedding {
    /// Of `inputs` numbers.
    pub fn load(at: &Scope<'_>, inputs: usize, width: usize) -> std::result::Result<Self, DiffusionError> {
        Ok(Self {
            linear_1: Linear::load(&at.at("linear_1"), inputs, width)?,
            linear_2: Linear::load(&at.at("linear_2"), width, width)?,
        })
    }

    /// Of a number's [waves](crate::diffusion::layers::waves).
    pub fn load_waves(at: &Scope<'_>, width: usize) -> std::result::Result<Self, DiffusionError> {
        Self::load(at, WAVES, width)
    }

    /// `[batch, inputs]` to `[batch, width]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear_2.forward(&self.linear_1.forward(x)?.silu()?)
    }

    /// Shows both layers to `visit`.
    pub fn visit(&mut self, visit: &mut Visit<'_>) {
        self.linear_1.visit(visit);
        self.linear_2.visit(visit);
    }
}
