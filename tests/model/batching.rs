//! Pictures that share passes: on the CPU each has the bits that it has alone, whoever joins and leaves.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::parity::runs::lora;
use crate::support::{copy_folder, data, model};
use candle_core::{DType, Device};
use image::{GrayImage, Luma, Rgb, RgbImage};
use sd_worker_rbee::{
    contract::{GuidanceInterval, PromptSyntax},
    diffusion::{ImageSpec, Picture, Source, StableDiffusion},
};

/// Environment variable with the seed of a run that is to be repeated.
const SEED: &str = "BATCHING_SEED";
/// Pictures of a run.
const PICTURES: usize = 10;
/// Pictures that may be advanced together.
const SLOTS: usize = 5;

/// Random choices that can be repeated: Steele, Lea and Flood's SplitMix64.
struct Choices(u64);

impl Choices {
    /// From the environment, or of the time; printed.
    fn new() -> Self {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let seed = std::env::var(SEED).map_or_else(|_| now(), |seed| seed.parse().unwrap());
        println!("{SEED}={seed}");
        Self(seed)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    fn of<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(3 * x) as u8, (2 * y) as u8, (x + y) as u8]))
}

fn source(choices: &mut Choices, kinds: &[&str]) -> Source {
    let (width, height) = choices.of(&[(64, 64), (64, 64), (72, 64), (96, 64)]);
    let image = picture(width, height);
    match choices.of(kinds) {
        "text" => Source::Text { width, height },
        "image" => Source::Image { image, strength: choices.of(&[0.5, 1.0]) },
        _ => {
            let mask = GrayImage::from_fn(width, height, |x, _| Luma([if x < 30 { 255 } else { 0 }]));
            Source::Inpaint { image, mask, strength: choices.of(&[0.6, 1.0]), overlay: None }
        }
    }
}

fn spec(choices: &mut Choices, kinds: &[&str]) -> ImageSpec {
    let long = "a red circle, ".repeat(30);
    let interval = |bounds| Some(GuidanceInterval::new(bounds).unwrap());
    ImageSpec {
        negative_prompt: choices.of(&[None, Some("blue".to_owned())]),
        prompt_syntax: choices.of(&[PromptSyntax::Plain, PromptSyntax::A1111]),
        clip_skip: choices.below(2) as u32,
        steps: 2 + choices.below(5) as u32,
        guidance_scale: choices.of(&[0.0, 1.0, 4.0, 7.5]),
        guidance_interval: choices.of(&[None, interval([0.0, 0.5]), interval([0.3, 0.9])]),
        seed: choices.below(1 << 30) as u64,
        scheduler: Some(choices.of(StableDiffusion::schedulers()).to_owned()),
        ..ImageSpec::new(
            choices.of(&["a red circle", "a blue square", "", long.as_str()]),
            source(choices, kinds),
        )
    }
}

fn bits(latents: &[f32]) -> Vec<u32> {
    latents.iter().map(|x| x.to_bits()).collect()
}

/// The latents after each step.
fn alone(model: &StableDiffusion, spec: &ImageSpec) -> Vec<Vec<u32>> {
    let mut job = model.begin(spec).unwrap();
    let mut steps = Vec::new();
    while !job.is_done() {
        model.advance(&mut [&mut job]).unwrap();
        steps.push(bits(job.latents()));
    }
    steps
}

/// Pictures that the model takes: some schedulers cannot do with few steps. The first two fit in one pass.
fn specs(
    model: &StableDiffusion,
    choices: &mut Choices,
    mut spec: impl FnMut(&mut Choices) -> ImageSpec,
) -> Vec<ImageSpec> {
    let mut specs: Vec<ImageSpec> = Vec::new();
    while specs.len() < PICTURES {
        let mut next = spec(choices);
        if let [first] = &specs[..] {
            let ImageSpec { prompt, prompt_syntax, loras, source, .. } = first.clone();
            next = ImageSpec { prompt, prompt_syntax, loras, source, negative_prompt: None, ..next };
        }
        specs.extend(model.begin(&next).is_ok().then_some(next));
    }
    specs
}

/// Draws pictures in random company, and compares each step of each with its step alone.
fn check(checkpoint: &str, spec: impl FnMut(&mut Choices) -> ImageSpec) {
    let (model, mut choices) = (model(checkpoint), Choices::new());
    let specs = specs(&model, &mut choices, spec);
    let alone: Vec<_> = specs.iter().map(|spec| alone(&model, spec)).collect();
    let begin = |index: usize| (index, model.begin(&specs[index]).unwrap());
    let mut running: Vec<(usize, Picture)> = vec![begin(0), begin(1)];
    let mut waiting: Vec<usize> = (2..specs.len()).collect();
    let mut shared = 0;
    while !(running.is_empty() && waiting.is_empty()) {
        let pictures: Vec<&Picture> = running.iter().map(|(_, job)| job).collect();
        shared += model.passes(&pictures).iter().filter(|pass| pass.len() > 1).count();
        model.advance(&mut running.iter_mut().map(|(_, job)| job).collect::<Vec<_>>()).unwrap();
        for (index, job) in &running {
            let step = job.step() as usize;
            assert!(alone[*index][step - 1] == bits(job.latents()), "step {step} of {:?}", specs[*index]);
        }
        // Some are given up on their way, as a cancelled job is.
        running.retain(|(_, job)| !job.is_done() && choices.below(20) > 0);
        while !waiting.is_empty() && running.len() < SLOTS && (running.is_empty() || choices.below(2) == 0) {
            running.push(begin(waiting.remove(choices.below(waiting.len()))));
        }
    }
    assert!(shared > 0, "no pass was shared: nothing was tested");
}

#[test]
fn a_picture_s_bits_do_not_depend_on_its_company() {
    check("text", |choices| spec(choices, &["text", "image", "inpaint"]));
}

#[test]
fn nor_do_they_with_sdxl() {
    check("xl", |choices| spec(choices, &["text", "image"]));
}

#[test]
fn nor_where_the_mask_is_an_input_of_the_network() {
    check("inpaint", |choices| spec(choices, &["inpaint"]));
}

#[test]
fn nor_where_the_guidance_scale_is_embedded() {
    check("lcm", |choices| spec(choices, &["text"]));
}

#[test]
fn nor_with_loras() {
    let sets = [vec![], vec![lora("text/kohya", 0.8)], vec![lora("text/peft", 0.5), lora("text/kohya", 1.0)]];
    check("text", |choices| ImageSpec { loras: choices.of(&sets), ..spec(choices, &["text"]) });
}

#[test]
fn pictures_with_the_same_loras_share_a_pass_and_others_do_not() {
    let model = model("text");
    let sets = [vec![], vec![lora("text/kohya", 1.0)], vec![], vec![lora("text/kohya", 1.0)]];
    let specs = sets.map(|loras| ImageSpec { loras, ..plain() });
    let jobs = specs.map(|spec| model.begin(&spec).unwrap());
    assert_eq!(model.passes(&jobs.iter().collect::<Vec<_>>()), [[0, 2], [1, 3]]);
}

fn plain() -> ImageSpec {
    ImageSpec {
        steps: 4,
        seed: 1,
        scheduler: Some("euler_a".into()),
        ..ImageSpec::new("a red circle", Source::Text { width: 64, height: 64 })
    }
}

fn guided_in(bounds: [f64; 2]) -> ImageSpec {
    ImageSpec { guidance_interval: Some(GuidanceInterval::new(bounds).unwrap()), ..plain() }
}

#[test]
fn a_pass_has_4096_latent_pixels_at_most() {
    let model = model("text");
    // 1,024 latent pixels, in two samples where the step is guided.
    let large = |spec: ImageSpec| ImageSpec { source: Source::Text { width: 256, height: 256 }, ..spec };
    let passes = |spec: ImageSpec| {
        let jobs: Vec<Picture> = (0..5).map(|_| model.begin(&spec).unwrap()).collect();
        model.passes(&jobs.iter().collect::<Vec<_>>())
    };
    assert_eq!(passes(large(plain())), [vec![0, 1], vec![2, 3], vec![4]]);
    let unguided = [vec![0, 1, 2, 3], vec![4]];
    assert_eq!(passes(large(ImageSpec { guidance_scale: 1.0, ..plain() })), unguided);
    // Half the samples where the interval does not guide.
    assert_eq!(passes(large(guided_in([0.5, 1.0]))), unguided);
    assert_eq!(passes(ImageSpec { source: Source::Text { width: 512, height: 512 }, ..plain() }).len(), 5);
}

#[test]
fn outside_of_its_guidance_interval_a_picture_is_not_guided() {
    let model = model("text");
    let [guided, unguided] = [7.5, 1.0].map(|guidance_scale| ImageSpec { guidance_scale, ..plain() });
    let (guided, unguided) = (alone(&model, &guided), alone(&model, &unguided));
    assert_eq!(alone(&model, &guided_in([0.0, 1.0])), guided);
    let early = alone(&model, &guided_in([0.0, 0.5]));
    assert_eq!(early[..2], guided[..2]);
    assert_ne!(early[2], guided[2]);
    let late = alone(&model, &guided_in([0.5, 1.0]));
    assert_eq!(late[..2], unguided[..2]);
    assert_ne!(late[2], unguided[2]);
    // A strength leaves out steps of the schedule, not of the interval's fractions.
    let half = |spec: ImageSpec| {
        let image = picture(64, 64);
        alone(&model, &ImageSpec { source: Source::Image { image, strength: 0.5 }, ..spec })
    };
    assert_eq!(half(guided_in([0.0, 0.5])), half(ImageSpec { guidance_scale: 1.0, ..plain() }));
    assert_eq!(half(guided_in([0.5, 1.0])), half(plain()));
}

/// Which evaluations of a picture are guided, told by what a guided picture would do in their place.
fn guided_evaluations(model: &StableDiffusion, spec: &ImageSpec) -> Vec<usize> {
    let mut job = model.begin(spec).unwrap();
    let mut guided = Vec::new();
    while !job.is_done() {
        let mut other = model.begin(&ImageSpec { guidance_interval: None, ..spec.clone() }).unwrap();
        other.resume(job.progress()).unwrap();
        model.advance(&mut [&mut job]).unwrap();
        model.advance(&mut [&mut other]).unwrap();
        if bits(job.latents()) == bits(other.latents()) {
            guided.push(job.step() as usize - 1);
        }
    }
    guided
}

/// A checkpoint whose scheduler begins with Runge-Kutta's steps, or leaves them out.
fn with_runge_kutta(begins: bool) -> StableDiffusion {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&data("text"), folder.path());
    let file = folder.path().join("scheduler/scheduler_config.json");
    let mut values: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    values["skip_prk_steps"] = (!begins).into();
    std::fs::write(&file, values.to_string()).unwrap();
    StableDiffusion::load(folder.path(), &Device::Cpu, DType::F32).unwrap()
}

#[test]
fn a_guidance_interval_counts_steps_and_never_divides_one_that_takes_several_evaluations() {
    let (text, linear, runge_kutta) = (model("text"), with_runge_kutta(false), with_runge_kutta(true));
    let of = |model: &StableDiffusion, scheduler: &str, steps, bounds, strength: f64| {
        let source = match strength {
            1.0 => plain().source,
            strength => Source::Image { image: picture(64, 64), strength },
        };
        let scheduler = Some(scheduler.into());
        guided_evaluations(model, &ImageSpec { scheduler, steps, source, ..guided_in(bounds) })
    };
    // By hand. Four steps of heun are seven evaluations, 0 1 | 2 3 | 4 5 | 6, at 0, 1/4, 1/2 and 3/4.
    assert_eq!(of(&text, "heun", 4, [0.25, 0.6], 1.0), [2, 3, 4, 5]);
    assert_eq!(of(&text, "heun", 4, [0.1, 0.5], 1.0), [2, 3]);
    assert_eq!(of(&text, "heun_karras", 4, [0.75, 1.0], 1.0), [6]);
    // A strength of 1/2 leaves 4 5 | 6, and they are counted from 0.
    assert_eq!(of(&text, "heun", 4, [0.5, 0.7], 0.5), [0, 1]);
    // pndm goes its first step twice: 0 1 | 2 | 3 | 4.
    assert_eq!(of(&linear, "pndm", 4, [0.0, 0.2], 1.0), [0, 1]);
    assert_eq!(of(&linear, "pndm", 4, [0.25, 0.75], 1.0), [2, 3]);
    // Of a picture that begins in the middle, the first of those that are left.
    assert_eq!(of(&linear, "pndm", 4, [0.5, 0.7], 0.5), [0, 1]);
    // By Runge-Kutta 0 1 2 3 | 4 5 6 7 | 8 9 10 11 | 12 | 13.
    assert_eq!(of(&runge_kutta, "pndm", 5, [0.15, 0.5], 1.0), (4..12).collect::<Vec<_>>());
    assert_eq!(of(&runge_kutta, "pndm", 5, [0.6, 0.75], 1.0), [12]);
    // One evaluation each.
    assert_eq!(of(&text, "dpmpp_2m_sde", 4, [0.25, 0.75], 1.0), [1, 2]);
}

#[test]
fn an_interval_without_guidance_is_said_to_be_unused() {
    for (checkpoint, scale, why) in [("text", 1.0, "does not guide"), ("lcm", 7.5, "learned its guidance")] {
        let spec = ImageSpec { guidance_scale: scale, ..guided_in([0.1, 0.8]) };
        let warnings = model(checkpoint).begin(&spec).unwrap().warnings();
        assert!(warnings[0].starts_with("`guidance_interval`") && warnings[0].contains(why), "{warnings:?}");
    }
    assert!(model("text").begin(&guided_in([0.1, 0.8])).unwrap().warnings().is_empty());
}
