//! What a job sets of a scheduler, in place of the checkpoint's configuration: the keys and values are diffusers'.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ContractError;

/// Timesteps that a model may be distilled for at most.
const MAX_ORIGINAL_STEPS: u32 = 1000;

/// Options of a scheduler; each absent one is the model's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SchedulerOptions {
    /// How timesteps are spread; `lcm` has a spread of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestep_spacing: Option<TimestepSpacing>,
    /// What the network predicts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction_type: Option<PredictionType>,
    /// Whether the schedule is changed so that the last timestep is noise alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescale_betas_zero_snr: Option<bool>,
    /// Of `lcm`: the timesteps that the model was distilled for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub original_inference_steps: Option<u32>,
}

/// How timesteps are spread (Lin et al. 2023, table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TimestepSpacing {
    /// From 0 in equal strides.
    Leading,
    /// Down from the last in equal strides.
    Trailing,
    /// Both ends, and equal parts between.
    Linspace,
}

/// What a network predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise.
    Epsilon,
    /// Velocity.
    VPrediction,
    /// The clean latents.
    Sample,
}

impl SchedulerOptions {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks them.
    ///
    /// # Errors
    /// A number out of bounds, by its path.
    pub fn checked(self) -> Result<Self, ContractError> {
        match self.original_inference_steps {
            Some(steps) if !(1..=MAX_ORIGINAL_STEPS).contains(&steps) => {
                let reason = format!("{steps} is none; 1 to {MAX_ORIGINAL_STEPS} are allowed");
                Err(ContractError::field("scheduler_options.original_inference_steps", reason))
            }
            _ => Ok(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Capability, Job, Limits, Operation};

    fn read(options: &str) -> Result<Job, String> {
        let body = format!(r#"{{"prompt":"a","job_id":"j","scheduler_options":{options}}}"#);
        let operation = Operation::parse(Some(Capability::Generate), body.as_bytes());
        operation.and_then(|operation| Job::new(operation, &Limits::default())).map_err(|e| e.to_string())
    }

    #[test]
    fn options_are_read_by_diffusers_names_and_what_is_wrong_is_refused_by_its_path() {
        let job = read(r#"{"timestep_spacing":"trailing","prediction_type":"v_prediction"}"#).unwrap();
        assert_eq!(job.scheduler_options.timestep_spacing, Some(TimestepSpacing::Trailing));
        assert_eq!(job.scheduler_options.prediction_type, Some(PredictionType::VPrediction));
        for (options, says) in [
            (
                r#"{"timestep_spacing":"karras"}"#,
                "`scheduler_options.timestep_spacing`: there is no `karras`",
            ),
            (r#"{"original_inference_steps":0}"#, "`scheduler_options.original_inference_steps`: 0"),
            (r#"{"original_inference_steps":1001}"#, "`scheduler_options.original_inference_steps`: 1001"),
            (r#"{"timestep_spacin":"leading"}"#, "did you mean `timestep_spacing`"),
            (
                r#"{"rescale_betas_zero_snr":1}"#,
                "`scheduler_options.rescale_betas_zero_snr`: must be true or false",
            ),
            ("3", "`scheduler_options`"),
        ] {
            let error = read(options).unwrap_err();
            assert!(error.contains(says), "{says} is not in: {error}");
        }
    }

    #[test]
    fn no_options_are_the_same_request_as_a_field_that_is_left_out() {
        let plain =
            Operation::parse(Some(Capability::Generate), br#"{"prompt":"a","job_id":"j","seed":1}"#).unwrap();
        let empty = br#"{"prompt":"a","job_id":"j","seed":1,"scheduler_options":{}}"#;
        let empty = Operation::parse(Some(Capability::Generate), empty).unwrap();
        assert_eq!(plain.fingerprint(), empty.fingerprint());
        assert_ne!(
            plain.fingerprint(),
            Operation::parse(
                Some(Capability::Generate),
                br#"{"prompt":"a","job_id":"j","seed":1,"scheduler_options":{"timestep_spacing":"trailing"}}"#
            )
            .unwrap()
            .fingerprint()
        );
    }
}
