//! What a Z-Image model does with requests and with checkpoints that are not as they should be.

use std::{collections::HashMap, fs, path::Path};

use crate::{
    support::{copy_folder, data},
    whole_runs::lora,
};
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
    let lora = LoraSpec { name: "a".into(), file: data("loras/text/kohya.safetensors"), strength: 1.0 };
    let a1111 = |prompt: &str| ImageSpec {
        prompt: prompt.into(),
        prompt_syntax: PromptSyntax::A1111,
        ..text(32, 32)
    };
    let cases = [
        (ImageSpec { loras: vec![lora], ..text(32, 32) }, "expected a layer of this model"),
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
fn a_lora_draws_the_same_by_kohya_s_names_and_the_next_job_has_the_model_as_it_was() {
    let model = load(&data("z_image/base")).unwrap();
    let with = |name: &str| ImageSpec { loras: vec![lora("z_image", name, 0.8)], ..text(32, 48) };
    let before = draw(&model, &text(32, 48));
    let plain = draw(&model, &with("plain"));
    assert_ne!(plain, before);
    assert_eq!(draw(&model, &with("kohya")), plain);
    assert_eq!(draw(&model, &text(32, 48)), before);
    let turbo = load(&data("z_image/turbo")).unwrap();
    let error = turbo.begin(&with("plain")).err().unwrap().to_string();
    assert!(error.contains("`loras[0].path`") && error.contains("expected"), "{error}");
}

#[test]
fn queries_keys_and_values_in_one_matrix_draw_what_three_draw() {
    let model = load(&data("z_image/base")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let whole =
        candle_core::safetensors::load(data("z_image/loras/plain.safetensors"), &Device::Cpu).unwrap();
    let stem = "layers.0.attention";
    let of = |part: &str, end: &str| whole[&format!("diffusion_model.{stem}.{part}.{end}")].clone();
    // One way down for all three, as a layer in one has it.
    let (down, alpha) = (of("to_q", "lora_down.weight"), of("to_q", "alpha"));
    let ups = ["to_q", "to_k", "to_v"].map(|part| of(part, "lora_up.weight"));
    let write = |name: &str, layers: Vec<(String, candle_core::Tensor)>| {
        let tensors: HashMap<String, candle_core::Tensor> = layers
            .into_iter()
            .flat_map(|(layer, up)| {
                [("lora_down.weight", &down), ("lora_up.weight", &up), ("alpha", &alpha)]
                    .map(|(end, tensor)| (format!("{layer}.{end}"), tensor.clone()))
            })
            .collect();
        let file = folder.path().join(format!("{name}.safetensors"));
        candle_core::safetensors::save(&tensors, &file).unwrap();
        let loras = vec![LoraSpec { name: name.into(), file, strength: 0.8 }];
        draw(&model, &ImageSpec { loras, ..text(32, 48) })
    };
    let parts = ["to_q", "to_k", "to_v"].iter().zip(&ups);
    let apart = parts.map(|(part, up)| (format!("diffusion_model.{stem}.{part}"), up.clone())).collect();
    let apart = write("apart", apart);
    let fused = candle_core::Tensor::cat(&ups, 0).unwrap();
    for (i, layer) in [
        "diffusion_model.layers.0.attention.qkv",
        "lora_unet_layers_0_attention_qkv",
        "layers.0.attention.qkv",
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(write(&i.to_string(), vec![(layer.into(), fused.clone())]), apart, "{layer}");
    }
    assert_ne!(apart, draw(&model, &text(32, 48)));
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
