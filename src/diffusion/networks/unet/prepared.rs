//! What the network computes once for a picture: its conditioning is the same at every step, and the timesteps are known.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::context::Context;

/// What a network computed of a picture's conditioning, for all of its steps.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Embedded timesteps with all that is added to them, `[steps, samples, time_embed_dim]`.
    time: Tensor,
    context: Arc<Context>,
    tokens: usize,
}

/// What steers one step of one picture, or of several.
#[derive(Debug, Clone)]
pub struct StepInput {
    /// `[samples, time_embed_dim]`.
    pub time: Tensor,
    /// Of as many samples.
    pub context: Context,
}

impl Prepared {
    /// `time` is `[steps, samples, time_embed_dim]`, `context` of as many samples.
    pub fn new(time: Tensor, context: Arc<Context>, tokens: usize) -> Self {
        Self { time, context, tokens }
    }

    /// Samples of a guided step: two with guidance, else one.
    pub fn samples(&self) -> usize {
        self.time.dims()[1]
    }

    /// Tokens that are attended to; pictures of different counts cannot share a pass.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// What cross attention attends to; pictures of the same texts share it.
    #[cfg(test)]
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// For the last `samples` samples at a step, counted from the picture's first. Nothing is copied.
    pub fn at(&self, step: usize, samples: usize) -> Result<StepInput> {
        let (time, all) = (self.time.get(step)?, self.samples());
        if samples == all {
            return Ok(StepInput { time, context: (*self.context).clone() });
        }
        Ok(StepInput { time: time.narrow(0, all - samples, samples)?, context: self.context.last(samples)? })
    }
}

impl StepInput {
    /// The samples of several pictures, one after the other; of one, nothing is copied. All are of one network and of
    /// one count of tokens.
    pub fn join(mut parts: Vec<Self>) -> Result<Self> {
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        let times: Vec<&Tensor> = parts.iter().map(|part| &part.time).collect();
        let contexts: Vec<&Context> = parts.iter().map(|part| &part.context).collect();
        Ok(Self { time: Tensor::cat(&times, 0)?, context: Context::join(&contexts)? })
    }
}
