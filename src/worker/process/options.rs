//! The command line of the workers.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use candle_core::Device;

use super::dtype::DtypeOption;
use crate::{
    bus::{NatsOptions, StreamOptions},
    contract::{
        Capability, HiveId, Limits, Subjects, WorkerId,
        limits::{MAX_IMAGES, MAX_STEPS, MIN_SIDE},
    },
    diffusion::Precision,
    logging::LogOptions,
    models::{LoraFolder, MemoryLimit, ModelInfo, ModelOptions, ModelSource, ModelSources},
    segmenter::Segmenter,
    storage::StoreOptions,
    units::{parse_duration, parse_pixels, parse_size},
    worker::shared::Identity,
};

/// The most jobs that one worker holds.
const MAX_SLOTS: usize = 1024;

/// Takes jobs for Stable Diffusion from NATS and puts the pictures into a store
#[derive(Debug, Clone, clap::Parser)]
#[command(version)]
pub struct WorkerOptions {
    /// A model: a folder in the diffusers layout, a .safetensors file, a repository of the hub as org/name or
    /// org/name@revision, or sim://?step_ms=5&size=64 (only takes time); repeat for more, the first is the default. Components
    /// in other files follow it: vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, scheduler, and in a folder unet
    /// or transformer
    #[arg(
        long = "model",
        env = "SD_MODELS",
        value_name = "[NAME=]SOURCE[,COMPONENT=PATH]...",
        required = true
    )]
    pub models: Vec<ModelSources>,
    /// Bytes of weights that are kept; the least recently used model goes first [default: all that is free]
    #[arg(long, env = "SD_MODEL_MEMORY", value_name = "SIZE", value_parser = parse_size)]
    pub model_memory: Option<u64>,
    /// Models that are loaded before the worker is ready, and no others; one that has no room is refused [default: all in
    /// their order, as far as there is room]
    #[arg(long, env = "SD_PRELOAD", value_name = "NAME", value_delimiter = ',')]
    pub preload: Vec<String>,
    /// While durable jobs of the models in memory wait, those of others are passed over for this long at most; 0s: models
    /// take turns
    #[arg(long, env = "SD_SWITCH_AFTER", default_value = "30s", value_parser = parse_duration, value_name = "TIME")]
    pub switch_after: Duration,
    /// Bytes that the whole worker may take, with what the largest picture of --max-pixels takes beside the weights; a
    /// model that does not fit is refused [default: no limit]
    #[arg(long, env = "SD_MEMORY_LIMIT", value_name = "SIZE", value_parser = parse_size)]
    pub memory_limit: Option<u64>,
    /// Folder of LoRAs that jobs may name; without it they may not
    #[arg(long, env = "SD_LORA_DIR", value_name = "FOLDER", value_parser = parse_folder)]
    pub lora_dir: Option<PathBuf>,
    /// Folder with the weights of Segment Anything (one .safetensors file, ViT or MobileSAM), for jobs that point at what they
    /// repaint; without it they may not
    #[arg(long, env = "SD_SEGMENTER", value_name = "FOLDER", value_parser = parse_folder)]
    pub segmenter: Option<PathBuf>,
    /// Folder of textual inversions that prompts in the a1111 syntax may name
    #[arg(long, env = "SD_EMBEDDING_DIR", value_name = "FOLDER", value_parser = parse_folder)]
    pub embedding_dir: Option<PathBuf>,
    /// Name of this worker, one subject token of A-Z a-z 0-9 - _ [default: host, device and a random part]
    #[arg(long, env = "WORKER_ID")]
    pub worker_id: Option<WorkerId>,
    /// The hive that this worker belongs to
    #[arg(long, env = "HIVE_ID")]
    pub hive_id: Option<HiveId>,
    /// What it takes
    #[arg(
        long,
        env = "SD_CAPABILITIES",
        value_delimiter = ',',
        default_value = "generate,transform,inpaint"
    )]
    pub capabilities: Vec<Capability>,
    /// Queue group that the pool's workers share
    #[arg(long, env = "SD_QUEUE_GROUP", default_value = "workers", value_parser = parse_group)]
    pub queue_group: String,
    /// Put before every subject, with a dot
    #[arg(long, env = "SD_SUBJECT_PREFIX", default_value = "", hide_default_value = true)]
    pub subject_prefix: String,
    /// Jobs that may run together
    #[arg(long, env = "SD_SLOTS", default_value = "1", value_parser = parse_slots)]
    pub slots: usize,
    /// Jobs held ready beyond the slots
    #[arg(long, env = "SD_PREFETCH", default_value = "0", value_parser = parse_prefetch)]
    pub prefetch: usize,
    /// Index of the GPU
    #[arg(long, env = "SD_DEVICE", default_value = "0")]
    pub device: usize,
    /// Threads that compute [default: all cores]
    #[arg(long, env = "SD_THREADS", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Type that weights are kept in: f32, f16 or bf16, also by component: f16,vae=f32,text=f32,unet=bf16
    /// [default: f32 on a CPU, f16 on a GPU]
    #[arg(long, env = "SD_DTYPE", value_name = "TYPE[,COMPONENT=TYPE...]")]
    pub dtype: Option<DtypeOption>,
    /// Most pixels of a picture
    #[arg(long, env = "SD_MAX_PIXELS", default_value = "2048x2048", value_parser = parse_pixels)]
    pub max_pixels: u64,
    /// Most denoising steps
    #[arg(long, env = "SD_MAX_STEPS", default_value_t = MAX_STEPS,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_STEPS)))]
    pub max_steps: u32,
    /// Most pictures of a job
    #[arg(long, env = "SD_MAX_IMAGES", default_value_t = MAX_IMAGES,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_IMAGES)))]
    pub max_images: u32,
    /// Most bytes of an input picture
    #[arg(long, env = "SD_MAX_INPUT", default_value = "16MiB", value_parser = parse_size)]
    pub max_input: u64,
    /// The longest that a job may take
    #[arg(long, env = "SD_DEADLINE", default_value = "60m", value_parser = parse_duration)]
    pub deadline: Duration,
    /// How long running jobs may go on after SIGTERM; the worker has ended 20 s after that
    #[arg(long, env = "SD_GRACE", default_value = "60s", value_parser = parse_duration)]
    pub grace: Duration,
    /// A step takes longer than this, and than 20 times the slowest of its model and size: the device is stuck, and the
    /// worker ends with exit code 70 (a step of more than 1024x1024 pixels has more; loading is not counted)
    #[arg(long, env = "SD_STEP_LIMIT", default_value = "60s", value_parser = parse_duration, value_name = "TIME")]
    pub step_limit: Duration,
    /// Time between two checkpoints of a durable job, from which another worker goes on; 0s: after every step
    #[arg(long, env = "SD_CHECKPOINT_EVERY", default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    pub checkpoint_every: Duration,
    /// Address for /health, /ready, /metrics and the job endpoints on this worker alone, for example 127.0.0.1:8080
    #[arg(long, env = "SD_HTTP", value_name = "ADDRESS")]
    pub http: Option<SocketAddr>,
    /// The connection to NATS.
    #[command(flatten)]
    pub nats: NatsOptions,
    /// The streams of durable jobs.
    #[command(flatten)]
    pub streams: StreamOptions,
    /// The store.
    #[command(flatten)]
    pub store: StoreOptions,
    /// Logging.
    #[command(flatten)]
    pub log: LogOptions,
    /// Traces.
    #[cfg(feature = "otlp")]
    #[command(flatten)]
    pub traces: crate::traces::TraceOptions,
}

/// Flags that do not go together.
#[derive(Debug, thiserror::Error)]
#[error("{flag}: {reason}")]
pub struct OptionsError {
    /// The flag.
    pub flag: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl WorkerOptions {
    /// Checks what clap cannot, for example that names are unique.
    ///
    /// # Errors
    /// The first flag that is wrong.
    pub fn check(&self) -> Result<Subjects, OptionsError> {
        let error = |flag, reason: String| Err(OptionsError { flag, reason });
        let models = self.sources();
        for (i, model) in models.iter().enumerate() {
            if models[..i].iter().any(|earlier| earlier.name() == model.name()) {
                return error(
                    "--model",
                    format!("two models are called `{}`; give one a name with NAME=SOURCE", model.name()),
                );
            }
        }
        if let Some(name) = self.preload.iter().find(|&name| !models.iter().any(|model| model.name() == name))
        {
            let names: Vec<&str> = models.iter().map(ModelSource::name).collect();
            return error("--preload", format!("there is no model `{name}` among {}", names.join(", ")));
        }
        if self.model_memory == Some(0) {
            return error("--model-memory", "must be above 0".into());
        }
        if self.memory_limit == Some(0) {
            return error("--memory-limit", "must be above 0".into());
        }
        let least = u64::from(MIN_SIDE) * u64::from(MIN_SIDE);
        if self.max_pixels < least {
            let reason = format!(
                "{} pixels are less than the smallest picture has, and every job would be refused; {MIN_SIDE}x{MIN_SIDE}, \
                 which is {least}, is the least",
                self.max_pixels
            );
            return error("--max-pixels", reason);
        }
        if self.deadline.is_zero() {
            return error("--deadline", "must be above 0".into());
        }
        if self.step_limit.is_zero() {
            return error("--step-limit", "must be above 0".into());
        }
        Subjects::new(&self.subject_prefix)
            .map_err(|e| OptionsError { flag: "--subject-prefix", reason: e.to_string() })
    }

    /// Every model, in the order of the flags.
    pub fn sources(&self) -> Vec<ModelSource> {
        self.models.iter().flat_map(|sources| sources.0.iter().cloned()).collect()
    }

    /// How models are loaded on `device`, beside a segmenter that takes so many bytes of the CPU's memory.
    ///
    /// # Errors
    /// A `--memory-limit` that the segmenter alone takes.
    pub fn loading(&self, device: Device, segmenter: u64) -> Result<ModelOptions, OptionsError> {
        // A CPU computes one picture at a time, or several that are small; other devices all that have a slot.
        let pictures = if device.is_cpu() { 1 } else { self.slots as u64 };
        let beside = if device.is_cpu() { segmenter } else { 0 };
        let limit = match self.memory_limit {
            Some(bytes) if bytes <= beside => {
                let reason =
                    format!("{bytes} bytes, and the segmenter takes {beside}; give more, or a smaller one");
                return Err(OptionsError { flag: "--memory-limit", reason });
            }
            Some(bytes) => Some(MemoryLimit { bytes: bytes - beside, max_pixels: self.max_pixels, pictures }),
            None => None,
        };
        let precision = self.dtype.unwrap_or_default().on(&device);
        let preload = self.preload.clone();
        Ok(ModelOptions { precision, memory: self.model_memory, limit, preload, device })
    }

    /// The worker's name: as given, or a new one.
    pub fn worker_id(&self, device: &str) -> WorkerId {
        self.worker_id.clone().unwrap_or_else(|| random_id(device))
    }

    /// What the worker takes, in order.
    pub fn distinct_capabilities(&self) -> Vec<Capability> {
        let mut capabilities = self.capabilities.clone();
        capabilities.sort_unstable();
        capabilities.dedup();
        capabilities
    }

    /// Who the worker is, by this name, on a device that is called `cpu` or `cuda:0`, with these models.
    pub fn identity(
        &self,
        worker_id: WorkerId,
        device: &str,
        precision: Precision,
        catalog: Vec<ModelInfo>,
        segmenter: Option<Segmenter>,
    ) -> Identity {
        Identity {
            worker_id,
            hive_id: self.hive_id.clone(),
            capabilities: self.distinct_capabilities(),
            device: device.to_owned(),
            limits: Limits {
                max_pixels: self.max_pixels,
                max_steps: self.max_steps,
                max_images: self.max_images,
                max_input: self.max_input,
                deadline: self.deadline,
            },
            catalog,
            precision,
            snapshot_every: self.checkpoint_every,
            loras: self.lora_dir.clone().map(LoraFolder::new),
            segmenter,
            embeddings: self.embedding_dir.clone().map(LoraFolder::new),
        }
    }
}

fn parse_folder(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_dir() { Ok(path) } else { Err("there is no such folder".into()) }
}

fn parse_slots(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(slots) if (1..=MAX_SLOTS).contains(&slots) => Ok(slots),
        _ => Err(format!("1 to {MAX_SLOTS} are allowed")),
    }
}

fn parse_prefetch(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(prefetch) if prefetch <= MAX_SLOTS => Ok(prefetch),
        _ => Err(format!("0 to {MAX_SLOTS} are allowed")),
    }
}

fn parse_group(text: &str) -> Result<String, String> {
    WorkerId::new(text).map(String::from).map_err(|_| "one token of A-Z a-z 0-9 - _ is allowed".to_owned())
}

/// `host-device-random`, of characters that a subject token may have.
fn random_id(device: &str) -> WorkerId {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_else(|| "worker".into());
    let mut random = [0u8; 4];
    // Without the system's randomness the process id tells workers on one host apart.
    if getrandom::fill(&mut random).is_err() {
        random = std::process::id().to_le_bytes();
    }
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' };
    let host: String = host.trim().chars().take(64).map(allowed).collect();
    let device: String = device.chars().take(16).map(allowed).collect();
    let id = format!("{host}-{device}-{}", crate::contract::hex(&random));
    WorkerId::new(id).expect("at most 90 characters, all of them allowed")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::diffusion::DType;

    fn parse(args: &[&str]) -> Result<WorkerOptions, clap::Error> {
        WorkerOptions::try_parse_from([&["worker", "--model", "sim://"], args].concat())
    }

    #[test]
    fn the_flags_are_a_valid_command() {
        use clap::CommandFactory;
        WorkerOptions::command().debug_assert();
    }

    #[test]
    fn what_cannot_work_is_refused_at_start() {
        for bad in [
            &["--capabilities", "upscale"][..],
            &["--slots", "0"],
            &["--worker-id", "a.b"],
            &["--max-steps", "151"],
            &["--queue-group", "a b"],
            &["--deadline", "60"],
            &["--dtype", "f64"],
            &["--dtype", "f16,clip=f32"],
            &["--model-memory", "much"],
            &["--memory-limit", "1.5GiB"],
            &["--lora-dir", "no/such/folder"],
            &["--model", "vae=models/tiny-shapes/vae"],
            &["--model", "shapes=models/tiny-shapes,vae=no/such/file"],
            &["--embedding-dir", "no/such/folder"],
            &["--lora-dir", "Cargo.toml"],
            &["--segmenter", "no/such/folder"],
            &["--segmenter", "Cargo.toml"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        for bad in [
            &["--model", "sim://"][..],
            &["--preload", "other"],
            &["--model-memory", "0"],
            &["--memory-limit", "0"],
            &["--max-pixels", "512"],
            &["--max-pixels", "63x64"],
            &["--step-limit", "0s"],
            &["--subject-prefix", "a..b"],
        ] {
            assert!(parse(bad).unwrap().check().is_err(), "{bad:?}");
        }
        for good in [
            &["--model", "other=sim://"][..],
            &["--model", "other=sim://", "--preload", "other,sim", "--switch-after", "0s"],
            &["--model", "shapes=models/tiny-shapes,vae=models/tiny-shapes/vae,more=sim://"],
            &["--dtype", "f16,vae=f32"],
            &["--model-memory", "6GiB"],
            &["--memory-limit", "6GiB"],
            &["--max-pixels", "64x64"],
            &["--max-pixels", "512x512"],
            &["--lora-dir", "src"],
            &["--embedding-dir", "src"],
        ] {
            assert!(parse(good).unwrap().check().is_ok(), "{good:?}");
        }
        let said = parse(&["--max-pixels", "512"]).unwrap().check().unwrap_err().to_string();
        assert!(said.starts_with("--max-pixels: 512 ") && said.contains("64x64"), "{said}");
    }

    #[test]
    fn a_worker_without_a_name_gets_one_of_its_own() {
        let options = parse(&["--capabilities", "inpaint,generate,inpaint"]).unwrap();
        let (a, b) = (options.worker_id("cuda:0"), options.worker_id("cuda:0"));
        assert!(a.as_str().contains("-cuda-0-"), "{a}");
        assert_ne!(a, b);
        let identity = options.identity(a.clone(), "cuda:0", Precision::all(DType::F32), vec![], None);
        assert_eq!(identity.worker_id, a);
        assert_eq!(identity.capabilities, [Capability::Generate, Capability::Inpaint]);
    }
}
