//! A job put down between two steps goes on in another worker, bit for bit, and computes no step twice.

mod engine;
mod pictures;
mod tampered;

use candle_core::{DType, Device};
use image::{GrayImage, Luma, Rgb, RgbImage};
use sd_worker_rbee::{
    contract::JobId,
    diffusion::{ImageSpec, Precision, Source},
    engine::{InferencePipeline, Snapshot},
    models::{ModelIdentity, ModelSource},
    storage::{Store, StoreOptions},
    worker::snapshot::{self, Kept, Origin},
};

/// The model, and beside it a simulation that takes its time.
const MODEL: &str = "m";
const SLOW: &str = "slow=sim://?step_ms=60&size=64";

/// A pipeline that no other picture has seen, with a small checkpoint or a simulation.
fn open(model: &str) -> InferencePipeline {
    let model = match model.starts_with("sim:") {
        true => model.to_owned(),
        false => crate::support::data(model).display().to_string(),
    };
    let sources = [format!("{MODEL}={model}"), SLOW.to_owned()];
    let sources: Vec<ModelSource> = sources.iter().map(|source| source.parse().unwrap()).collect();
    InferencePipeline::load(&sources, &Device::Cpu).unwrap()
}

fn spec(source: Source) -> ImageSpec {
    ImageSpec { steps: 4, guidance_scale: 5.0, seed: 11, ..ImageSpec::new("a red circle", source) }
}

fn text() -> ImageSpec {
    spec(Source::Text { width: 64, height: 64 })
}

fn transform() -> ImageSpec {
    spec(Source::Image { image: gradient(), strength: 0.8 })
}

fn inpaint(strength: f64) -> ImageSpec {
    let mask = GrayImage::from_fn(64, 64, |x, _| Luma([if x > 30 { 255 } else { 0 }]));
    spec(Source::Inpaint { image: gradient(), mask, strength, overlay: None })
}

fn gradient() -> RgbImage {
    RgbImage::from_fn(64, 64, |x, y| Rgb([(3 * x) as u8, (2 * y) as u8, 90]))
}

/// As a worker writes it and another one reads it.
async fn carried(snapshot: Snapshot) -> Snapshot {
    let store = Store::open(&StoreOptions::new("memory://")).unwrap();
    let model: ModelSource = SLOW.parse().unwrap();
    let precision = Precision::all(DType::F32);
    let origin = Origin::new("f00d", &ModelIdentity::of(&model, &Device::Cpu, precision).unwrap());
    let job = JobId::generate();
    snapshot::write(&store, &job, &origin, Kept::of_the_first(snapshot)).await.unwrap();
    snapshot::read(&store, &job, &origin).await.unwrap().unwrap().snapshot
}
