//! LoRAs: pictures as diffusers draws them with every format of file, the model untouched after, files kept warm.

use std::path::Path;

use crate::parity::runs::{check_runs, lora};
use crate::support::{data, model};
use image::RgbImage;
use sd_worker_rbee::{
    diffusion::{DType, Device, ImageSpec, LoraSpec, Picture, Source, StableDiffusion},
    engine::InferencePipeline,
};
use tempfile::TempDir;

fn spec(loras: Vec<LoraSpec>) -> ImageSpec {
    ImageSpec {
        negative_prompt: Some("blue".into()),
        steps: 3,
        guidance_scale: 5.0,
        seed: 1,
        scheduler: Some("euler_a".into()),
        loras,
        ..ImageSpec::new("a red circle", Source::Text { width: 64, height: 64 })
    }
}

fn finish(model: &StableDiffusion, mut job: Picture) -> RgbImage {
    while !job.is_done() {
        model.advance(&mut [&mut job]).unwrap();
    }
    model.finish(&job).unwrap()
}

fn draw(model: &StableDiffusion, loras: Vec<LoraSpec>) -> RgbImage {
    finish(model, model.begin(&spec(loras)).unwrap())
}

fn copied(name: &str, folder: &Path, as_name: &str) -> LoraSpec {
    let lora = lora(name, 1.0);
    let file = folder.join(as_name);
    std::fs::copy(&lora.file, &file).unwrap();
    LoraSpec { file, ..lora }
}

#[test]
fn a_lora_in_any_format_draws_diffusers_picture() {
    for run in ["lora_kohya", "lora_mixed", "lora_peft", "lora_old", "lora_negative"] {
        check_runs("loras", run);
    }
}

/// A tensor's name to another.
type Rename<'a> = dyn Fn(&str) -> String + 'a;

/// A copy of a file with other names for its tensors.
fn renamed(from: &str, to: &Path, rename: impl Fn(&str) -> String) -> LoraSpec {
    let bytes = std::fs::read(data(&format!("loras/{from}.safetensors"))).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let name = |name: String| if name.starts_with("__") { name } else { rename(&name) };
    let header: serde_json::Map<_, _> = header.into_iter().map(|(key, value)| (name(key), value)).collect();
    let header = serde_json::Value::from(header).to_string();
    let new = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[8 + length..]].concat();
    let file = to.join("renamed.safetensors");
    std::fs::write(&file, new).unwrap();
    LoraSpec { name: "renamed".into(), file, strength: 1.0 }
}

#[test]
fn the_names_that_trainers_leave_in_peft_s_files_draw_the_same_picture() {
    let model = model("text");
    let plain = draw(&model, vec![lora("text/peft", 1.0)]);
    assert_ne!(plain, draw(&model, vec![]));
    let folder = TempDir::new().unwrap();
    let with_adapter =
        |key: &str| key.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default.");
    let bare = |key: &str| key.strip_prefix("unet.").unwrap_or(key).to_owned();
    let cases: [(&str, &Rename<'_>); 7] = [
        ("adapter", &with_adapter),
        ("wrapper", &|key| format!("base_model.model.{key}")),
        ("wrapper inside", &|key| {
            let (component, layer) = key.split_once('.').unwrap();
            format!("{component}.base_model.model.{layer}")
        }),
        ("wrapper of the network alone", &|key| format!("base_model.model.{}", bare(key))),
        ("the network's other name", &|key| match key.strip_prefix("unet.") {
            Some(layer) => format!("transformer.{layer}"),
            None => key.to_owned(),
        }),
        ("both, and the adapter", &|key| match key.strip_prefix("unet.") {
            Some(layer) => with_adapter(&format!("transformer.base_model.model.{layer}")),
            None => with_adapter(&format!("base_model.model.{key}")),
        }),
        ("no component", &|key| {
            let (_, layer) = key.split_once('.').unwrap();
            layer.to_owned()
        }),
    ];
    for (what, rename) in cases {
        let picture = draw(&model, vec![renamed("text/peft", folder.path(), rename)]);
        assert_eq!(picture, plain, "{what}");
    }
}

#[test]
fn loras_for_sdxl_by_its_original_names_and_by_diffusers_draw_diffusers_picture() {
    for run in ["lora_xl_original", "lora_xl_peft"] {
        check_runs("loras", run);
    }
}

#[test]
fn two_loras_with_their_strengths_draw_diffusers_picture() {
    for run in ["lora_two", "lora_xl_two"] {
        check_runs("loras", run);
    }
}

#[test]
fn loha_lokr_and_locon_of_three_factors_draw_what_lycoris_merges() {
    for run in ["locon_tucker", "loha", "lokr", "three_methods"] {
        check_runs("adapters", run);
    }
}

#[test]
fn dora_over_rows_and_over_columns_draws_what_lycoris_merges_and_what_diffusers_draws() {
    for run in ["dora_lycoris", "dora_peft"] {
        check_runs("adapters", run);
    }
}

#[test]
fn the_next_job_has_the_model_as_it_was() {
    let model = model("text");
    let before = draw(&model, vec![]);
    for name in ["text/kohya", "text/peft", "text/old", "text/loha", "text/lokr", "text/dora"] {
        assert_ne!(draw(&model, vec![lora(name, 1.0)]), before, "{name}");
        assert_eq!(draw(&model, vec![]), before, "{name}");
    }
}

#[test]
fn a_strength_of_0_is_no_lora() {
    let model = model("text");
    assert_eq!(draw(&model, vec![lora("text/kohya", 0.0)]), draw(&model, vec![]));
    let one = draw(&model, vec![lora("text/old", 0.5)]);
    assert_eq!(draw(&model, vec![lora("text/kohya", 0.0), lora("text/old", 0.5)]), one);
}

#[test]
fn jobs_with_and_without_loras_advance_side_by_side() {
    let model = model("text");
    let sets =
        [vec![], vec![lora("text/kohya", 1.0)], vec![lora("text/kohya", 0.5)], vec![lora("text/kohya", 1.0)]];
    let alone: Vec<RgbImage> = sets.iter().map(|set| draw(&model, set.clone())).collect();
    let mut jobs: Vec<Picture> = sets.into_iter().map(|set| model.begin(&spec(set)).unwrap()).collect();
    while jobs.iter().any(|job| !job.is_done()) {
        model.advance(&mut jobs.iter_mut().collect::<Vec<_>>()).unwrap();
    }
    for (job, alone) in jobs.iter().zip(&alone) {
        assert_eq!(&model.finish(job).unwrap(), alone);
    }
    assert_ne!(alone[1], alone[2]);
}

#[test]
fn a_picture_with_a_lora_goes_on_from_what_was_written_down() {
    let model = model("text");
    let spec = spec(vec![lora("text/kohya", 0.8)]);
    let mut job = model.begin(&spec).unwrap();
    model.advance(&mut [&mut job]).unwrap();
    let written = serde_json::to_string(&job.progress()).unwrap();
    let mut again = crate::support::model("text").begin(&spec).unwrap();
    again.resume(serde_json::from_str(&written).unwrap()).unwrap();
    assert_eq!(finish(&model, again), finish(&model, job));
}

#[test]
fn a_file_is_read_once_and_again_when_it_has_changed() {
    let (model, folder) = (model("text"), TempDir::new().unwrap());
    let kohya = copied("text/kohya", folder.path(), "style.safetensors");
    let first = draw(&model, vec![kohya.clone()]);
    draw(&model, vec![LoraSpec { strength: 0.5, ..kohya.clone() }]);
    assert_eq!(draw(&model, vec![kohya.clone()]), first);
    assert_eq!(model.loras().reads(), 1);
    copied("text/peft", folder.path(), "style.safetensors");
    assert_eq!(draw(&model, vec![kohya.clone()]), draw(&model, vec![lora("text/peft", 1.0)]));
    assert_ne!(draw(&model, vec![kohya]), first);
    assert_eq!(model.loras().reads(), 3);
}

#[test]
fn the_least_recently_used_file_is_forgotten() {
    let (model, folder) = (model("text"), TempDir::new().unwrap());
    let name = |i: usize| format!("{i}.safetensors");
    let files: Vec<LoraSpec> = (0..17).map(|i| copied("text/old", folder.path(), &name(i))).collect();
    let begin = |lora: &LoraSpec| drop(model.begin(&spec(vec![lora.clone()])).unwrap());
    files[..16].iter().for_each(begin);
    begin(&files[0]);
    assert_eq!(model.loras().reads(), 16);
    begin(&files[16]);
    begin(&files[0]);
    assert_eq!(model.loras().reads(), 17);
    begin(&files[1]);
    assert_eq!(model.loras().reads(), 18);
}

#[test]
fn a_model_in_half_precision_takes_loras_too() {
    // Checkpoint and LoRA are in f16 already: nothing is lost.
    let half = StableDiffusion::load(&data("text"), &Device::Cpu, DType::F16).unwrap();
    let loras = vec![lora("text/kohya", 0.7), lora("text/old", 0.3)];
    assert_eq!(draw(&half, loras.clone()), draw(&model("text"), loras));
}

#[test]
fn a_simulated_model_takes_no_loras() {
    let sources = ["sim=sim://?step_ms=0&size=64".parse().unwrap()];
    let pipeline = InferencePipeline::load(&sources, &Device::Cpu).unwrap();
    let error = pipeline.begin("sim", &spec(vec![lora("text/kohya", 1.0)])).err().unwrap();
    assert!(error.to_string().starts_with("`loras`"), "{error}");
}
