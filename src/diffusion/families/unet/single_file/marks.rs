//! What a file says of how its UNet was trained: `modelspec.prediction_type` in its header, and tensors without numbers that
//! are there for their names alone.

use serde_json::{Value, json};

use super::{Prediction, presets};
use crate::diffusion::{DiffusionError, checkpoint::MappedFile};

/// It predicts velocity.
const VELOCITY: &str = "v_pred";
/// It was trained from noise alone on.
const ZERO_SNR: &str = "ztsnr";
/// Models that were trained as Karras et al. 2022 have it, with what draws such.
const OTHERS: [(&str, &str); 4] = [
    ("edm_mean", "a model of Playground 2.5's kind (EDM)"),
    ("edm_std", "a model of Playground 2.5's kind (EDM)"),
    ("edm_vpred.sigma_max", "a model of CosXL's kind (EDM that predicts velocity)"),
    ("edm_vpred.sigma_min", "a model of CosXL's kind (EDM that predicts velocity)"),
];

/// What the file says that it predicts.
pub fn prediction(file: &MappedFile) -> Option<Prediction> {
    match file.note("modelspec.prediction_type") {
        Some("epsilon") => Some(Prediction::Epsilon),
        Some("v" | "v_prediction") => Some(Prediction::Velocity),
        _ => file.has(VELOCITY).then_some(Prediction::Velocity),
    }
}

/// Whether it was trained from noise alone on.
pub fn is_zero_snr(file: &MappedFile) -> bool {
    file.has(ZERO_SNR)
}

/// What the marks say of the scheduler.
pub fn of_scheduler(file: &MappedFile) -> Vec<(&'static str, Value)> {
    let prediction = prediction(file).map(|prediction| match prediction {
        Prediction::Epsilon => ("prediction_type", json!("epsilon")),
        Prediction::Velocity => ("prediction_type", json!("v_prediction")),
    });
    let zero_snr = if is_zero_snr(file) { presets::zero_snr() } else { Vec::new() };
    prediction.into_iter().chain(zero_snr).collect()
}

/// Refuses a model that is not drawn with here: read as another it gives noise.
///
/// # Errors
/// The mark, and what it means.
pub fn refuse_others(file: &MappedFile) -> Result<(), DiffusionError> {
    match OTHERS.into_iter().find(|(mark, _)| file.has(mark)) {
        None => Ok(()),
        Some((mark, what)) => Err(DiffusionError::Config {
            file: file.path().to_owned(),
            key: mark.to_owned(),
            expected: "a model that predicts noise or velocity over the timesteps of training".into(),
            found: format!("{what}, which is not computed here"),
        }),
    }
}
