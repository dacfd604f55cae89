//! The kernels, which compute in f32, beside candle's own operations, which compute in f64 here: networks with random
//! weights, at sizes that fit no tile.

use candle_core::{DType, Device, Tensor};
use sd_worker_rbee::diffusion::{Added, Conditioning, ImageSpec, Source, StableDiffusion, TorchRng};

use crate::support::{data, picture, relative_l2};

const CHECKPOINTS: [&str; 7] = ["text", "sd2", "inpaint", "xl", "refiner", "turbo", "xl_inpaint"];
/// f32 has 6e-8 of a number; a network adds up errors of some hundred sums.
const TOLERANCE: f64 = 1e-5;

fn both(checkpoint: &str) -> [StableDiffusion; 2] {
    [DType::F32, DType::F64]
        .map(|dtype| StableDiffusion::load(&data(checkpoint), &Device::Cpu, dtype).unwrap())
}

fn normal(seed: u64, shape: &[usize]) -> Tensor {
    let values = TorchRng::new(seed).normal(shape.iter().product());
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn close(name: &str, [kernels, candle]: [Tensor; 2]) {
    let distance = relative_l2(&kernels, &candle);
    println!("{name}: {distance:.1e}");
    assert!(distance > 0.0, "{name}: both are computed the same way");
    assert!(distance < TOLERANCE, "{name}: {distance:e}");
}

#[test]
fn networks_predict_what_they_predict_in_f64_without_kernels() {
    for checkpoint in CHECKPOINTS {
        let models = both(checkpoint);
        for (height, width) in [(16, 16), (24, 40)] {
            let name = format!("{checkpoint}, {height}x{width}");
            let unet = [(&models[0], DType::F32), (&models[1], DType::F64)].map(|(model, dtype)| {
                let config = model.unet().config();
                let of = |seed, shape: &[usize]| normal(seed, shape).to_dtype(dtype).unwrap();
                let mut conditioning = Conditioning::of_text(of(1, &[2, 77, config.cross_attention_dim[0]]));
                if let Some(addition) = &config.addition {
                    let sizes = if checkpoint == "refiner" { 5 } else { 6 };
                    let pooled = addition.inputs - sizes * addition.time_embed_dim;
                    let time_ids =
                        (Tensor::ones((2, sizes), DType::F32, &Device::Cpu).unwrap() * 64.0).unwrap();
                    conditioning.added = Some(Added { pooled: of(2, &[2, pooled]), time_ids });
                }
                let latents = of(3, &[2, config.in_channels, height, width]);
                model.unet().forward(&latents, &[981.0, 21.0], &conditioning).unwrap()
            });
            close(&format!("{name}: UNet"), unet);
            let vae = models.each_ref().map(|model| {
                let latents = normal(4, &[1, model.vae().latent_channels(), height, width]);
                model.vae().decode(&latents.to_dtype(model.vae().dtype()).unwrap()).unwrap()
            });
            close(&format!("{name}: VAE"), vae);
        }
    }
}

#[test]
fn pictures_end_where_they_end_in_f64_without_kernels() {
    for checkpoint in ["text", "sd2", "xl", "turbo"] {
        let [kernels, candle] = both(checkpoint).map(|model| {
            let spec = ImageSpec {
                negative_prompt: Some("the blue".into()),
                steps: 4,
                guidance_scale: 5.0,
                seed: 7,
                ..ImageSpec::new("a large red circle", Source::Text { width: 128, height: 64 })
            };
            let mut job = model.begin(&spec).unwrap();
            while !job.is_done() {
                model.advance(&mut [&mut job]).unwrap();
            }
            model.finish(&job).unwrap()
        });
        let (mean, most) = picture::difference(&kernels, &candle);
        println!("{checkpoint}: {mean} in the mean, {most} at most, of 255");
        assert!(mean < 0.01 && most <= 1, "{checkpoint}: {mean} {most}");
    }
}
