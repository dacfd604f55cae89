//! The parts of a picture with a checkpoint of any size: one pass of the UNet, VAE decode, text encoder, whole pictures.
//! Of a Flux checkpoint it draws pictures only.
//!
//! `cargo bench --bench parts -- --model FOLDER` prints a table. With `--serve` it measures what a line on its input asks
//! for and answers with a line of JSON; `tools/compare` does so, and says in its README what may be asked for.

use std::{
    any::Any,
    io::{BufRead, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor, safetensors};
use clap::Parser;
use sd_worker_rbee::{
    diffusion::{
        self, Added, Conditioning, ImageSpec, LoraSpec, Model, Networks, Picture, Source, UNetDenoiser,
    },
    worker::DtypeOption,
};
use serde_json::{Value, json};

#[derive(Parser)]
struct Arguments {
    /// A checkpoint.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-shapes"))]
    model: PathBuf,
    /// Inputs in a safetensors file: unet.latents, unet.timesteps, unet.text, vae.latents, text.ids, and of SDXL
    /// unet.pooled, unet.time_ids; random ones of the checkpoint's own size without it.
    #[arg(long)]
    inputs: Option<PathBuf>,
    /// `cpu`, or `cuda` in a build with that feature.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// As the worker's.
    #[arg(long, default_value = "")]
    dtype: String,
    /// A LoRA's file, which the parts are measured with; several at once.
    #[arg(long)]
    lora: Vec<PathBuf>,
    /// Measurements of each part, after one that does not count.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Reads what to measure from the standard input.
    #[arg(long)]
    serve: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What the parts are computed from, on the device and in its type.
struct Inputs {
    latents: Tensor,
    timesteps: Vec<f32>,
    conditioning: Conditioning,
    vae_latents: Tensor,
    ids: Vec<Vec<u32>>,
}

impl Inputs {
    fn read(path: &Path, model: &Bench) -> Result<Self> {
        let mut tensors = safetensors::load(path, &Device::Cpu).with_context(|| format!("{path:?}"))?;
        let mut take = |name: &str| tensors.remove(name);
        let has = |tensor: Option<Tensor>, name| tensor.with_context(|| format!("{name} is not in {path:?}"));
        let floats = |tensor: Tensor| tensor.to_dtype(model.dtype)?.to_device(&model.device);
        let mut conditioning = Conditioning::of_text(floats(has(take("unet.text"), "unet.text")?)?);
        if let Some((pooled, time_ids)) = take("unet.pooled").zip(take("unet.time_ids")) {
            let time_ids = time_ids.to_device(&model.device)?;
            conditioning.added = Some(Added { pooled: floats(pooled)?, time_ids });
        }
        Ok(Self {
            latents: floats(has(take("unet.latents"), "unet.latents")?)?,
            timesteps: has(take("unet.timesteps"), "unet.timesteps")?.to_dtype(DType::F32)?.to_vec1()?,
            conditioning,
            vae_latents: has(take("vae.latents"), "vae.latents")?
                .to_dtype(model.model.vae().dtype())?
                .to_device(&model.device)?,
            ids: has(take("text.ids"), "text.ids")?.to_dtype(DType::U32)?.to_vec2()?,
        })
    }

    /// Two samples, as guidance has them, and one picture.
    fn random(bench: &Bench) -> Result<Self> {
        let (model, own) = (bench, bench.networks()?);
        let unet = own.unet.config();
        let random = |shape: &[usize]| Tensor::randn(0f32, 1.0, shape, &model.device);
        let (height, width) = unet.sample_size;
        let (tokens, prompts) = (own.prompts.tokenizer(), &own.prompts);
        let ids = tokens.encode("a lighthouse at dusk")?.ids;
        let mut conditioning =
            Conditioning::of_text(random(&[2, ids.len(), prompts.width()])?.to_dtype(model.dtype)?);
        if let Some(addition) = unet.addition {
            let sizes = (addition.inputs - prompts.pooled_width()) / addition.time_embed_dim;
            conditioning.added = Some(Added {
                pooled: random(&[2, prompts.pooled_width()])?.to_dtype(model.dtype)?,
                time_ids: (Tensor::ones((2, sizes), DType::F32, &model.device)? * 512.0)?,
            });
        }
        let vae = model.model.vae();
        Ok(Self {
            latents: random(&[2, unet.in_channels, height, width])?.to_dtype(model.dtype)?,
            timesteps: vec![500.0; 2],
            conditioning,
            vae_latents: random(&[1, vae.latent_channels(), height, width])?.to_dtype(vae.dtype())?,
            ids: vec![ids; 2],
        })
    }
}

/// A checkpoint on its device.
struct Bench {
    model: Box<Model>,
    device: Device,
    /// What the UNet computes in.
    dtype: DType,
    /// The networks with LoRAs in them, if there are any.
    adapted: Option<Arc<Networks>>,
}

impl Bench {
    fn load(arguments: &Arguments) -> Result<Self> {
        let device = match arguments.device.as_str() {
            "cpu" => Device::Cpu,
            "cuda" => cuda()?,
            other => bail!("--device {other}: there are cpu and cuda"),
        };
        let option: DtypeOption = match arguments.dtype.as_str() {
            "" => DtypeOption::default(),
            said => said.parse().map_err(anyhow::Error::msg)?,
        };
        let precision = option.on(&device);
        let dtype = if device.is_cpu() { DType::F32 } else { precision.denoiser };
        let model = diffusion::open(&arguments.model)?.load(&device, precision)?;
        let spec =
            |file: &PathBuf| LoraSpec { name: file.display().to_string(), file: file.clone(), strength: 1.0 };
        let loras: Vec<LoraSpec> = arguments.lora.iter().map(spec).collect();
        let denoiser: &dyn Any = model.denoiser();
        let adapted = match denoiser.downcast_ref::<UNetDenoiser>() {
            Some(denoiser) => denoiser.with_loras(&loras)?,
            None => None,
        };
        Ok(Self { model, device, dtype, adapted })
    }

    /// Those of a Stable Diffusion checkpoint.
    fn networks(&self) -> Result<&Networks> {
        let denoiser: &dyn Any = self.model.denoiser();
        let own = denoiser.downcast_ref::<UNetDenoiser>();
        let own = own.context("of this family there are no parts; ask for `draw`")?.networks();
        Ok(self.adapted.as_deref().unwrap_or(own))
    }

    /// One of the parts; the device is done when it returns.
    fn part(&self, part: &str, inputs: &Inputs) -> Result<Tensor> {
        let own = self.networks()?;
        let out = match part {
            "unet" => own.unet.forward(&inputs.latents, &inputs.timesteps, &inputs.conditioning)?,
            "vae" => self.model.vae().decode(&inputs.vae_latents)?,
            "text" => {
                let encoder = own.prompts.encoders().next().context("a text encoder")?;
                encoder.forward(&inputs.ids, 0)?
            }
            other => bail!("`{other}` is no part; there are unet, vae, text, draw, begin, step and finish"),
        };
        self.device.synchronize()?;
        Ok(out)
    }

    /// Measures a part, and keeps what it made in a file.
    fn timed(&self, part: &str, inputs: &Inputs, path: Option<&str>) -> Result<Value> {
        let begun = Instant::now();
        let out = self.part(part, inputs)?;
        let seconds = begun.elapsed().as_secs_f64();
        if let Some(path) = path {
            out.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.save_safetensors("output", path)?;
        }
        Ok(json!({ "seconds": seconds }))
    }

    /// Pictures with the seeds from 0 on, begun.
    fn begin(&self, pictures: u64, steps: u32, side: u32) -> Result<Vec<Picture>> {
        let begun = (0..pictures).map(|seed| Ok(self.model.begin(&spec(seed, steps, side))?)).collect();
        self.device.synchronize()?;
        begun
    }

    /// One step of all that go through the network together.
    fn step(&self, pictures: &mut [Picture]) -> Result<()> {
        self.model.advance(&mut pictures.iter_mut().collect::<Vec<_>>())?;
        Ok(self.device.synchronize()?)
    }

    fn finish(&self, pictures: &[Picture]) -> Result<Vec<image::RgbImage>> {
        let images = pictures.iter().map(|picture| Ok(self.model.finish(picture)?)).collect();
        self.device.synchronize()?;
        images
    }

    /// Whole pictures that go through the network together.
    fn draw(&self, count: u64, steps: u32, side: u32, path: Option<&str>) -> Result<Value> {
        let begun = Instant::now();
        let mut pictures = self.begin(count, steps, side)?;
        let encoded = Instant::now();
        while pictures.iter().any(|picture| !picture.is_done()) {
            self.step(&mut pictures)?;
        }
        let denoised = Instant::now();
        let images = self.finish(&pictures)?;
        let finished = Instant::now();
        if let Some(path) = path {
            let pixels: Vec<u8> = images.into_iter().flat_map(image::RgbImage::into_raw).collect();
            let side = side as usize;
            Tensor::from_vec(pixels, (pictures.len(), side, side, 3), &Device::Cpu)?
                .save_safetensors("output", path)?;
        }
        Ok(json!({
            "begin": (encoded - begun).as_secs_f64(),
            "steps": (denoised - encoded).as_secs_f64(),
            "finish": (finished - denoised).as_secs_f64(),
        }))
    }

    /// `unet [FILE]`, `vae [FILE]`, `text [FILE]`, `draw PICTURES STEPS SIDE [FILE]`; and one after the other, of the same
    /// pictures: `begin PICTURES STEPS SIDE`, `step` as often as wanted, `finish`.
    fn answer(&self, line: &str, inputs: Option<&Inputs>, pictures: &mut Vec<Picture>) -> Result<Value> {
        let begun = Instant::now();
        let seconds = || Ok(json!({ "seconds": begun.elapsed().as_secs_f64() }));
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["draw", count, steps, side, path @ ..] => {
                self.draw(count.parse()?, steps.parse()?, side.parse()?, path.first().copied())
            }
            ["begin", count, steps, side] => {
                *pictures = self.begin(count.parse()?, steps.parse()?, side.parse()?)?;
                seconds()
            }
            ["step"] if !pictures.is_empty() => {
                self.step(pictures)?;
                seconds()
            }
            ["finish"] if !pictures.is_empty() => {
                self.finish(pictures)?;
                seconds()
            }
            ["step" | "finish"] => bail!("nothing was begun"),
            [part, path @ ..] => {
                let inputs = inputs.context("of this family there are no parts; ask for `draw`")?;
                self.timed(part, inputs, path.first().copied())
            }
            [] => bail!("an empty line"),
        }
    }

    fn serve(&self, inputs: Option<&Inputs>) -> Result<()> {
        let mut pictures = Vec::new();
        let mut out = std::io::stdout();
        writeln!(out, "{}", json!({ "ready": true }))?;
        for line in std::io::stdin().lock().lines() {
            let answer = self
                .answer(&line?, inputs, &mut pictures)
                .unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
            writeln!(out, "{answer}")?;
        }
        Ok(())
    }

    fn table(&self, inputs: &Inputs, rounds: usize) -> Result<()> {
        println!("{:<6}{:>10}{:>10}{:>10}  s, of {rounds}", "part", "median", "least", "most");
        for part in ["unet", "vae", "text"] {
            self.part(part, inputs)?;
            let mut seconds = Vec::new();
            for _ in 0..rounds.max(1) {
                let begun = Instant::now();
                self.part(part, inputs)?;
                seconds.push(begun.elapsed().as_secs_f64());
            }
            seconds.sort_by(f64::total_cmp);
            let (median, least, most) = (seconds[seconds.len() / 2], seconds[0], seconds[seconds.len() - 1]);
            println!("{part:<6}{median:>10.4}{least:>10.4}{most:>10.4}");
        }
        Ok(())
    }
}

#[cfg(feature = "cuda")]
fn cuda() -> Result<Device> {
    Ok(sd_worker_rbee::models::cuda::open(0)?)
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Result<Device> {
    bail!("this build has no CUDA")
}

/// What `tools/compare` asks diffusers for, too.
fn spec(seed: u64, steps: u32, side: u32) -> ImageSpec {
    ImageSpec {
        negative_prompt: Some("the circle".into()),
        steps,
        seed,
        ..ImageSpec::new("a red circle on the blue", Source::Text { width: side, height: side })
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let bench = Bench::load(&arguments)?;
    let inputs = match &arguments.inputs {
        _ if bench.networks().is_err() => None,
        Some(path) => Some(Inputs::read(path, &bench)?),
        None => Some(Inputs::random(&bench)?),
    };
    match inputs {
        inputs if arguments.serve => bench.serve(inputs.as_ref()),
        Some(inputs) => bench.table(&inputs, arguments.rounds),
        None => bail!("of this family there is no table: ask for `draw` with --serve"),
    }
}
