//! What a Z-Image model does with requests and with checkpoints that are not as they should be.

use std::{fs, path::Path};

use crate::support::{copy_folder, data};
use candle_core::{DType, Device};
use sd_worker_rbee::{
    contract::PromptSyntax,
    diffusion::{self, ImageSpec, LoraSpec, Precision, Source, ZImage, inspect},
    engine::InferencePipeline,
};
use serde_json::{Value, json};

fn load(folder: &Path) -> Result<ZImage, String> {
    let opened = diffusion::open(folder).map_err(|error| error.to_string())?;
    ZImage::load(&opened, &Device::Cpu, DType::F32).map_err(|error| error.to_string())
}

fn text(width: u32, height: u32) -> ImageSpec {
    let source = Source::Text { width, height };
    ImageSpec { steps: 2, guidance_scale: 0.0, ..ImageSpec::new("a red circle", source) }
}

fn draw(model: &ZImage, spec: &ImageSpec) -> image::RgbImage {
    let mut picture = model.begin(spec).unwrap();
    while !picture.is_done() {
        model.advance(&mut [&mut picture]).unwrap();
    }
    model.finish(&picture).unwrap()
}

#[test]
fn defaults_are_those_of_the_distilled_model_or_of_the_other() {
    for (name, steps, guidance_scale) in [("turbo", 8, 0.0), ("base", 50, 5.0)] {
        let found =
            inspect(&data(&format!("z_image/{name}")), &Device::Cpu, Precision::all(DType::F32)).unwrap();
        assert_eq!((found.defaults.steps, found.defaults.guidance_scale), (steps, guidance_scale), "{name}");
        assert_eq!(found.native_size, (1024, 1024));
    }
}

#[test]
fn what_cannot_be_done_is_refused_by_field() {
    let model = load(&data("z_image/base")).unwrap();
    let lora = LoraSpec { name: "a".into(), file: "/no/such/file".into(), strength: 1.0 };
    let a1111 = |prompt: &str| ImageSpec {
        prompt: prompt.into(),
        prompt_syntax: PromptSyntax::A1111,
        ..text(32, 32)
    };
    let cases = [
        (ImageSpec { loras: vec![lora], ..text(32, 32) }, "`loras`"),
        (ImageSpec { scheduler: Some("ddim".into()), ..text(32, 32) }, "flow_euler"),
        (ImageSpec { steps: 0, ..text(32, 32) }, "`steps`"),
        (a1111("a (red:1.3) circle"), "`prompt_syntax`"),
        (text(0, 32), "`width`"),
    ];
    for (spec, part) in cases {
        let error = model.begin(&spec).err().expect(part).to_string();
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    assert_eq!(draw(&model, &a1111("a red circle")), draw(&model, &text(32, 32)));
}

#[test]
fn what_is_not_looked_at_is_said_in_the_warnings() {
    let model = load(&data("z_image/turbo")).unwrap();
    let negative = ImageSpec { negative_prompt: Some("blue".into()), clip_skip: 1, ..text(32, 32) };
    let warnings = model.begin(&negative).unwrap().warnings();
    assert!(warnings.iter().any(|warning| warning.contains("negative_prompt")), "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("clip_skip")), "{warnings:?}");
    let guided = ImageSpec { guidance_scale: 2.0, clip_skip: 0, ..negative };
    assert!(model.begin(&guided).unwrap().warnings().is_empty());
    let unguided = ImageSpec { guidance_scale: 0.0, ..guided.clone() };
    assert_ne!(draw(&model, &guided), draw(&model, &unguided));
}

#[test]
fn a_worker_draws_with_a_z_image_checkpoint_and_goes_on_from_a_snapshot() {
    let source = format!("z={}", data("z_image/turbo").display()).parse().unwrap();
    let pipeline = InferencePipeline::load(&[source], &Device::Cpu).unwrap();
    let mut whole = pipeline.begin("z", &text(32, 48)).unwrap();
    pipeline.advance("z", &mut [&mut whole]).unwrap();
    let mut other = pipeline.begin("z", &text(32, 48)).unwrap();
    other.resume(whole.progress()).unwrap();
    for picture in [&mut whole, &mut other] {
        pipeline.advance("z", &mut [picture]).unwrap();
    }
    assert_eq!(whole.scheduler_name(), "flow_euler");
    assert_eq!(pipeline.finish("z", &whole).unwrap(), pipeline.finish("z", &other).unwrap());
}

#[test]
fn configurations_that_are_not_computed_here_are_refused_by_file_and_key() {
    let cases = [
        ("model_index.json", "_class_name", json!("ZImageOmniPipeline")),
        ("model_index.json", "text_encoder", json!(["transformers", "T5EncoderModel"])),
        ("transformer/config.json", "all_patch_size", json!([4])),
        ("transformer/config.json", "siglip_feat_dim", json!(8)),
        ("transformer/config.json", "n_kv_heads", json!(1)),
        ("transformer/config.json", "axes_dims", json!([4, 4, 8])),
        ("transformer/config.json", "in_channels", json!(8)),
        ("transformer/config.json", "cap_feat_dim", json!(32)),
        ("text_encoder/config.json", "num_key_value_heads", json!(3)),
        ("text_encoder/config.json", "head_dim", json!(7)),
        ("text_encoder/config.json", "hidden_act", json!("gelu")),
        ("text_encoder/config.json", "use_sliding_window", json!(true)),
        ("text_encoder/config.json", "rope_parameters", json!({"rope_type": "yarn"})),
        ("scheduler/scheduler_config.json", "stochastic_sampling", json!(true)),
    ];
    for (file, key, value) in cases {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(&data("z_image/turbo"), folder.path());
        let path = folder.path().join(file);
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        fs::write(path, config.to_string()).unwrap();
        let error = load(folder.path()).err().expect(key);
        assert!(error.contains(file) && error.contains(key), "{file} {key}: {error}");
    }
}

#[test]
fn a_tokenizer_that_is_not_whole_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&data("z_image/turbo"), folder.path());
    fs::rename(folder.path().join("tokenizer/tokenizer.json"), folder.path().join("tokenizer/vocab.json"))
        .unwrap();
    let error = load(folder.path()).err().expect("an error");
    assert!(error.contains("tokenizer.json") && error.contains("merges.txt alone"), "{error}");
}
