//! One picture, computed.

mod spec;

pub use spec::{ImageSpec, Source};

use crate::contract::ErrorCode;
use image::RgbImage;

pub struct StableDiffusion;
pub struct Denoising;
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct DiffusionError;
impl DiffusionError {
    pub fn code(&self) -> ErrorCode {
        ErrorCode::Internal
    }
}
impl StableDiffusion {
    pub fn load(
        _: &std::path::Path,
        _: &candle_core::Device,
        _: candle_core::DType,
    ) -> Result<Self, DiffusionError> {
        Err(DiffusionError)
    }
    pub fn native_size(&self) -> (u32, u32) {
        (1, 1)
    }
    pub fn begin(&self, _: &ImageSpec) -> Result<Denoising, DiffusionError> {
        Err(DiffusionError)
    }
    pub fn advance(&self, _: &mut [&mut Denoising]) -> Result<(), DiffusionError> {
        Err(DiffusionError)
    }
    pub fn finish(&self, _: &Denoising) -> Result<RgbImage, DiffusionError> {
        Err(DiffusionError)
    }
    pub fn preview(&self, _: &Denoising) -> Result<RgbImage, DiffusionError> {
        Err(DiffusionError)
    }
}
impl Denoising {
    pub fn step(&self) -> u32 {
        0
    }
    pub fn total(&self) -> u32 {
        0
    }
    pub fn warnings(&self) -> &[String] {
        &[]
    }
    pub fn scheduler_name(&self) -> &'static str {
        ""
    }
}
