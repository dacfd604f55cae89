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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::DType;

    use super::*;
    use crate::diffusion::{Device, ImageSpec, Source, StableDiffusion};

    #[test]
    fn pictures_of_one_prompt_share_what_was_computed_of_it() {
        for checkpoint in ["text", "xl", "lcm"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity").join(checkpoint);
            let model = StableDiffusion::load(&folder, &Device::Cpu, DType::F32).unwrap();
            let begin = |prompt: &str, seed, guidance_scale| {
                let spec = ImageSpec {
                    steps: 2,
                    guidance_scale,
                    seed,
                    ..ImageSpec::new(prompt, Source::Text { width: 64, height: 64 })
                };
                model.begin(&spec).unwrap()
            };
            let context = |job: &crate::diffusion::Denoising| job.prepared.context.clone();
            let first = begin("a red circle", 1, 5.0);
            assert!(Arc::ptr_eq(&context(&first), &context(&begin("a red circle", 2, 5.0))), "{checkpoint}");
            assert!(
                !Arc::ptr_eq(&context(&first), &context(&begin("a blue circle", 1, 5.0))),
                "{checkpoint}"
            );
            let guided = first.prepared.samples() == 2;
            let other = begin("a red circle", 1, 1.0);
            assert_eq!(Arc::ptr_eq(&context(&first), &context(&other)), !guided, "{checkpoint}");
        }
    }
}
