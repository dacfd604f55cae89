//! What a family gives so that pictures can be drawn with it: how its network is told what to draw, and how it is asked.

use std::any::Any;

use super::{ImageSpec, LATENT_PIXELS_ON_CPU, Picture, guidance::Guidance};
use crate::diffusion::{
    DiffusionError,
    autoencoders::LatentShape,
    schedulers::{FlowConfig, FlowEuler, Scheduler, SchedulerKind},
};

/// The loaded network of a family with what steers it. It holds nothing of a picture.
pub trait Denoiser: Any + Send + Sync {
    /// Latents along a side of what the network takes as one: pictures are grown to whole ones, and cut at the end.
    fn patch(&self) -> usize {
        1
    }

    /// Whether mask and masked picture are inputs of the network; else what a mask keeps is put back after each step.
    fn sees_masks(&self) -> bool {
        false
    }

    /// Samples times latent pixels (height times width) of a pass that pictures share on a CPU; one of more has a pass of
    /// its own.
    fn largest_pass_on_cpu(&self) -> usize {
        LATENT_PIXELS_ON_CPU
    }

    /// Refuses what this family cannot draw, before anything is computed, and says in `warnings` what is not looked at.
    ///
    /// # Errors
    /// The field of the request, and what is possible.
    fn check(&self, spec: &ImageSpec, warnings: &mut Vec<String>) -> Result<(), DiffusionError>;

    /// The way from noise to the picture, whose latents have `shape`. The strength was checked to be above 0 and up to 1.
    ///
    /// # Errors
    /// A scheduler, steps or a strength that this model cannot do.
    fn schedule(&self, spec: &ImageSpec, shape: LatentShape) -> Result<Schedule, DiffusionError>;

    /// How a picture is guided, where its steering has two samples.
    fn guidance(&self, spec: &ImageSpec) -> Guidance {
        Guidance::of(spec)
    }

    /// Computes what steers the network at every step of a picture: the texts, encoded, and what else it is told.
    ///
    /// # Errors
    /// A prompt or a LoRA that cannot be used, and what computing says.
    fn steer(&self, plan: &Plan<'_>, warnings: &mut Vec<String>)
    -> Result<Box<dyn Steering>, DiffusionError>;

    /// The network's answers at the next step of pictures that share a pass: for each the outputs of its
    /// [samples](Picture::samples) one after the other, each of the latents' shape.
    ///
    /// # Errors
    /// What computing says, and a picture of another model.
    fn predict(&self, pictures: &[&Picture]) -> Result<Vec<Vec<f32>>, DiffusionError>;
}

/// What a picture tells its network at every step: of its family, and in its hands only.
pub trait Steering: Any + Send + Sync {
    /// Samples that a guided step puts through the network: two with classifier-free guidance, the negative one first.
    fn samples(&self) -> usize {
        1
    }

    /// What pictures have to have in common, beside the size, to share a pass.
    fn pass_key(&self) -> PassKey {
        PassKey::default()
    }
}

/// See [`Steering::pass_key`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PassKey {
    /// Tokens of the text that are attended to.
    pub tokens: usize,
    /// The address of the weights, of a picture with its own.
    pub weights: usize,
}

/// The evaluations of the network that a picture takes.
pub struct Schedule {
    /// Which of the schedulers there are.
    pub kind: SchedulerKind,
    /// It, for this picture.
    pub scheduler: Box<dyn Scheduler>,
    /// The evaluation that the picture begins with.
    pub first: usize,
}

impl Schedule {
    /// Of a model that was trained by flow matching, for a picture of so many tokens.
    ///
    /// # Errors
    /// A scheduler or steps that such a model cannot do.
    pub fn along_flow(config: &FlowConfig, spec: &ImageSpec, tokens: usize) -> Result<Self, DiffusionError> {
        let kind = match &spec.scheduler {
            Some(name) => SchedulerKind::from_name_for_flow(name)?,
            None => SchedulerKind::FlowEuler,
        };
        let scheduler = FlowEuler::new(config, spec.steps, tokens)?;
        let first = match spec.source.strength() {
            Some(strength) => scheduler.first_step(spec.steps as usize, strength)?,
            None => 0,
        };
        Ok(Self { kind, scheduler: Box::new(scheduler), first })
    }
}

/// What is known of a picture before its texts are encoded.
pub struct Plan<'a> {
    /// The request.
    pub spec: &'a ImageSpec,
    /// Width and height that are drawn, in pixels: whole patches.
    pub size: (u32, u32),
    /// Of the evaluations to come.
    pub timesteps: &'a [f32],
}
