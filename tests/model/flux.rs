//! What a Flux model does with requests and with checkpoints that are not as they should be.

use std::{fs, path::Path};

use crate::{
    support::{copy_folder, data},
    whole_runs::lora,
};
use candle_core::{DType, Device};
use image::{GrayImage, Luma, Rgb, RgbImage};
use sd_worker_rbee::{
    contract::{ErrorCode, GuidanceInterval, PromptSyntax},
    diffusion::{self, Flux, ImageSpec, LoraSpec, Source},
    engine::InferencePipeline,
    models::ModelSource,
};
use serde_json::{Value, json};
use tempfile::TempDir;

fn load(folder: &Path) -> Result<Flux, String> {
    let opened = diffusion::open(folder).map_err(|error| error.to_string())?;
    Flux::load(&opened, &Device::Cpu, DType::F32).map_err(|error| error.to_string())
}

fn model(name: &str) -> Flux {
    load(&data(&format!("flux/{name}"))).unwrap()
}

fn spec(source: Source) -> ImageSpec {
    ImageSpec { steps: 2, guidance_scale: 0.0, seed: 3, ..ImageSpec::new("a red circle", source) }
}

fn text(width: u32, height: u32) -> ImageSpec {
    spec(Source::Text { width, height })
}

fn draw(model: &Flux, spec: &ImageSpec) -> RgbImage {
    let mut job = model.begin(spec).unwrap();
    while !job.is_done() {
        model.advance(&mut [&mut job]).unwrap();
    }
    model.finish(&job).unwrap()
}

fn refusal(model: &Flux, spec: &ImageSpec) -> String {
    match model.begin(spec) {
        Ok(_) => panic!("it was begun"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_picture_has_the_size_asked_for_when_its_sides_are_no_whole_tokens() {
    let model = model("schnell");
    let picture = draw(&model, &text(40, 56));
    assert_eq!(picture.dimensions(), (40, 56));
    let whole = draw(&model, &text(48, 64));
    assert_eq!(image::imageops::crop_imm(&whole, 0, 0, 40, 56).to_image(), picture);
}

#[test]
fn the_next_job_has_the_model_as_it_was_and_pictures_with_and_without_loras_go_side_by_side() {
    let model = model("dev");
    let with = |name: &str| ImageSpec { loras: vec![lora("flux", name, 1.0)], ..text(32, 48) };
    let specs = [text(32, 48), with("kohya"), with("xlabs"), text(32, 48)];
    let alone = specs.each_ref().map(|spec| draw(&model, spec));
    assert_eq!(alone[0], alone[3]);
    assert!(alone[1] != alone[0] && alone[2] != alone[0] && alone[1] != alone[2]);
    let mut together = specs.each_ref().map(|spec| model.begin(spec).unwrap());
    while together.iter().any(|picture| !picture.is_done()) {
        model.advance(&mut together.iter_mut().collect::<Vec<_>>()).unwrap();
    }
    for (picture, alone) in together.iter().zip(&alone) {
        assert_eq!(&model.finish(picture).unwrap(), alone);
    }
}

#[test]
fn loras_of_another_family_or_of_the_text_encoder_that_is_not_changed_are_refused() {
    let model = model("schnell");
    let folder = TempDir::new().unwrap();
    let t5 = folder.path().join("t5.safetensors");
    let zeros = |shape: (usize, usize)| candle_core::Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let stem = "lora_te3_encoder_block_0_layer_0_SelfAttention_q";
    let tensors = [("lora_down", zeros((2, 32))), ("lora_up", zeros((36, 2)))]
        .map(|(end, tensor)| (format!("{stem}.{end}.weight"), tensor));
    candle_core::safetensors::save(&tensors.into_iter().collect(), &t5).unwrap();
    for (file, parts) in [
        (
            data("loras/xl/peft.safetensors"),
            ["expected a layer of this model", "the file is a LoRA for SDXL"],
        ),
        (data("z_image/loras/plain.safetensors"), ["diffusion_model.", "(Z-Image, Lumina)"]),
        (t5, [stem, "none of that name"]),
    ] {
        let loras = vec![LoraSpec { name: "bad".into(), file, strength: 1.0 }];
        let error = model.begin(&ImageSpec { loras, ..text(32, 32) }).err().unwrap();
        assert_eq!(error.code(), ErrorCode::InvalidRequest, "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{part} is not in: {error}");
        }
    }
}

#[test]
fn what_a_mask_keeps_is_the_input_pixel_for_pixel() {
    let image = RgbImage::from_fn(50, 35, |x, y| Rgb([(x * 5) as u8, (y * 7) as u8, 90]));
    let mask = GrayImage::from_fn(50, 35, |x, _| Luma([if x < 30 { 0 } else { 255 }]));
    let source = Source::Inpaint { image: image.clone(), mask, strength: 1.0, overlay: None };
    let picture = draw(&model("dev"), &spec(source));
    let (mut changed, mut kept) = (0, 0);
    for (x, y, pixel) in picture.enumerate_pixels() {
        let same = pixel == image.get_pixel(x, y);
        if x < 30 {
            assert!(same, "{x} {y}");
            kept += 1;
        } else {
            changed += u32::from(!same);
        }
    }
    assert!(kept == 30 * 35 && changed > 500, "{kept} {changed}");
}

#[test]
fn a_picture_is_the_same_alone_and_beside_another_that_is_further_on() {
    let model = model("dev");
    let alone = draw(&model, &text(64, 48));
    let (mut first, mut second) = (
        model.begin(&ImageSpec { seed: 9, steps: 4, ..text(64, 48) }).unwrap(),
        model.begin(&text(64, 48)).unwrap(),
    );
    model.advance(&mut [&mut first]).unwrap();
    while !second.is_done() {
        model.advance(&mut [&mut first, &mut second]).unwrap();
    }
    assert_eq!(model.finish(&second).unwrap(), alone);
    assert_eq!((first.step(), first.total()), (3, 4));
}

#[test]
fn a_preview_is_drawn_from_sixteen_channels_and_is_not_flat() {
    let model = model("schnell");
    let mut job = model.begin(&ImageSpec { steps: 4, ..text(64, 64) }).unwrap();
    for _ in 0..3 {
        model.advance(&mut [&mut job]).unwrap();
    }
    let preview = model.preview(&job).unwrap();
    assert_eq!(preview.dimensions(), (256, 256));
    let colours =
        |image: &RgbImage| -> usize { image.pixels().collect::<std::collections::HashSet<_>>().len() };
    assert!(colours(&preview) > 20, "a flat preview");
}

#[test]
fn guidance_changes_a_picture_of_dev_and_not_of_schnell() {
    for (name, changes) in [("dev", true), ("schnell", false)] {
        let model = model(name);
        let guided = ImageSpec { guidance_scale: 7.0, ..text(32, 32) };
        assert_eq!(draw(&model, &guided) != draw(&model, &text(32, 32)), changes, "{name}");
        let warned = model.begin(&guided).unwrap().warnings().iter().any(|w| w.contains("`guidance_scale`"));
        assert_eq!(warned, !changes, "{name}");
    }
}

#[test]
fn what_is_not_looked_at_is_said_in_the_warnings() {
    let model = model("dev");
    assert!(model.begin(&text(32, 32)).unwrap().warnings().is_empty());
    let spec = ImageSpec {
        negative_prompt: Some("blue".into()),
        clip_skip: 1,
        guidance_interval: Some(GuidanceInterval::new([0.1, 0.8]).unwrap()),
        prompt: "red ".repeat(60) + "the end",
        ..text(32, 32)
    };
    // The second time the prompt is remembered; its warning must be too.
    for _ in 0..2 {
        let warnings = model.begin(&spec).unwrap().warnings().join("\n");
        let unused = ["`negative_prompt`", "`clip_skip`", "`guidance_interval`"];
        for part in [&unused[..], &["`prompt` was cut at 48 tokens", "the end"]].concat() {
            assert!(warnings.contains(part), "{part} is not in {warnings}");
        }
    }
}

#[test]
fn prompts_of_jobs_that_run_in_turn_are_encoded_once_each() {
    let model = model("schnell");
    let prompts = ["a red circle", "a blue square"];
    let words = |prompt: &str| {
        let text = model.encode_prompt(prompt).unwrap();
        [text.words, text.pooled].map(|x| x.flatten_all().unwrap().to_vec1::<f32>().unwrap())
    };
    let first = prompts.map(words);
    assert_eq!(model.embeddings().hits(), 0);
    assert_eq!(prompts.map(words), first);
    assert_eq!(model.embeddings().hits(), 2);
    assert_ne!(first[0], first[1]);
}

fn a1111(prompt: &str) -> ImageSpec {
    ImageSpec { prompt_syntax: PromptSyntax::A1111, prompt: prompt.into(), ..text(32, 32) }
}

#[test]
fn a_prompt_without_weights_says_the_same_in_either_syntax() {
    let model = model("schnell");
    let plain = ImageSpec { prompt: "a red (large) circle".into(), ..text(32, 32) };
    assert!(draw(&model, &plain) == draw(&model, &a1111("a red \\(large\\) circle")));
}

#[test]
fn what_cannot_be_done_is_refused_by_field() {
    let model = model("schnell");
    let image = RgbImage::new(32, 32);
    let cases = [
        (
            ImageSpec { scheduler: Some("ddim".into()), ..text(32, 32) },
            vec!["`scheduler`", "ddim", "flow_euler"],
        ),
        (a1111("a (red:1.3) circle"), vec!["`prompt_syntax`", "plain"]),
        (a1111("a red BREAK circle"), vec!["`prompt_syntax`", "BREAK"]),
        (ImageSpec { guidance_scale: f64::NAN, ..text(32, 32) }, vec!["`guidance_scale`"]),
        (ImageSpec { steps: 0, ..text(32, 32) }, vec!["`steps`"]),
        (text(0, 32), vec!["`width`"]),
        (spec(Source::Image { image: image.clone(), strength: 0.0 }), vec!["`strength`"]),
        (spec(Source::Image { image: RgbImage::new(0, 0), strength: 0.5 }), vec!["`init_image`"]),
        (
            spec(Source::Inpaint { image, mask: GrayImage::new(16, 32), strength: 1.0, overlay: None }),
            vec!["`mask_image`", "(16, 32)", "(32, 32)"],
        ),
    ];
    for (spec, parts) in cases {
        let error = refusal(&model, &spec);
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?} are not in: {error}");
    }
    let named = ImageSpec { scheduler: Some("euler".into()), ..text(32, 32) };
    assert_eq!(draw(&model, &named), draw(&model, &text(32, 32)));
}

#[test]
fn a_worker_draws_with_a_flux_checkpoint_and_knows_its_defaults() {
    let sources: Vec<ModelSource> = ["schnell", "dev"]
        .map(|name| format!("{name}={}", data(&format!("flux/{name}")).display()).parse().unwrap())
        .into();
    let pipeline = InferencePipeline::load(&sources, &Device::Cpu).unwrap();
    let defaults: Vec<_> = pipeline.catalog().iter().map(|info| (info.steps, info.guidance_scale)).collect();
    assert_eq!(defaults, [(4, 0.0), (28, 3.5)]);
    let mut job = pipeline.begin("dev", &text(32, 32)).unwrap();
    while !job.is_done() {
        pipeline.advance("dev", &mut [&mut job]).unwrap();
    }
    assert_eq!(job.scheduler_name(), "flow_euler");
    assert_eq!(pipeline.finish("dev", &job).unwrap(), draw(&model("dev"), &text(32, 32)));
}

/// A copy of the `dev` checkpoint to damage.
struct Copy(TempDir);

impl Copy {
    fn new() -> Self {
        let copy = Self(tempfile::tempdir().unwrap());
        copy_folder(&data("flux/dev"), copy.0.path());
        copy
    }

    fn set(&self, file: &str, key: &str, value: Value) {
        let path = self.0.path().join(file);
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        fs::write(path, config.to_string()).unwrap();
    }

    /// Makes every number of a bf16 tensor NaN.
    fn fill_with_nan(&self, file: &str, key: &str) {
        let path = self.0.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..data]).unwrap();
        let offset = |i: usize| data + header[key]["data_offsets"][i].as_u64().unwrap() as usize;
        let tensor = &mut bytes[offset(0)..offset(1)];
        assert_eq!(header[key]["dtype"], "BF16");
        tensor.chunks_exact_mut(2).for_each(|number| number.copy_from_slice(&0x7fc0_u16.to_le_bytes()));
        fs::write(path, bytes).unwrap();
    }

    fn is_refused_naming(&self, parts: &[&str]) {
        let error = load(self.0.path()).err().expect("the checkpoint was loaded");
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?} are not in: {error}");
    }
}

#[test]
fn configurations_that_are_not_computed_here_are_refused_by_file_and_key() {
    let cases = [
        ("model_index.json", "_class_name", json!("FluxControlPipeline")),
        ("model_index.json", "text_encoder_2", json!(["transformers", "UMT5EncoderModel"])),
        ("model_index.json", "transformer", json!(["diffusers", "SD3Transformer2DModel"])),
        ("transformer/config.json", "patch_size", json!(2)),
        ("transformer/config.json", "in_channels", json!(384)),
        ("transformer/config.json", "axes_dims_rope", json!([4, 6, 8])),
        ("transformer/config.json", "joint_attention_dim", json!(4096)),
        ("transformer/config.json", "pooled_projection_dim", json!(768)),
        ("text_encoder_2/config.json", "feed_forward_proj", json!("relu")),
        ("text_encoder_2/config.json", "relative_attention_num_buckets", json!(30)),
        ("text_encoder_2/config.json", "relative_attention_max_distance", json!(8)),
        ("scheduler/scheduler_config.json", "stochastic_sampling", json!(true)),
    ];
    for (file, key, value) in cases {
        let copy = Copy::new();
        copy.set(file, key, value);
        copy.is_refused_naming(&[file, key]);
    }
}

#[test]
fn a_picture_that_turns_to_nan_ends_at_once_and_is_never_handed_out() {
    let copy = Copy::new();
    copy.fill_with_nan("transformer/diffusion_pytorch_model.safetensors", "proj_out.bias");
    let source = format!("broken={}", copy.0.path().display()).parse().unwrap();
    let pipeline = InferencePipeline::load(&[source], &Device::Cpu).unwrap();
    let mut job = pipeline.begin("broken", &text(32, 32)).unwrap();
    pipeline.advance("broken", &mut [&mut job]).unwrap();
    assert!(job.is_done());
    for result in [pipeline.finish("broken", &job), pipeline.preview("broken", &job)] {
        let error = result.unwrap_err();
        assert_eq!(error.code(), ErrorCode::NonFinite);
        assert!(error.to_string().contains("step 1 of 2"), "{error}");
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused_in_the_checkpoint_s_own_names() {
    let copy = Copy::new();
    copy.set("transformer/config.json", "num_layers", json!(3));
    copy.is_refused_naming(&["transformer/diffusion_pytorch_model", "transformer_blocks.2."]);
    let copy = Copy::new();
    copy.set("text_encoder_2/config.json", "d_ff", json!(64));
    copy.is_refused_naming(&[
        "text_encoder_2/model",
        "block.0.layer.1.DenseReluDense.wi_0",
        "[64, 32]",
        "[48, 32]",
    ]);
}

#[test]
fn a_t5_tokenizer_that_is_not_whole_is_refused() {
    let copy = Copy::new();
    let folder = copy.0.path().join("tokenizer_2");
    fs::rename(folder.join("tokenizer.json"), folder.join("spiece.model")).unwrap();
    copy.is_refused_naming(&["tokenizer_2/tokenizer.json", "spiece.model", "transformers"]);
    let copy = Copy::new();
    copy.set("tokenizer_2/tokenizer_config.json", "pad_token", json!("[PAD]"));
    copy.is_refused_naming(&["tokenizer_2/tokenizer.json", "[PAD]"]);
    let copy = Copy::new();
    copy.set("text_encoder_2/config.json", "vocab_size", json!(50));
    copy.is_refused_naming(&["tokenizer_2/tokenizer.json", "below 50"]);
    let copy = Copy::new();
    fs::write(copy.0.path().join("tokenizer_2/tokenizer.json"), "{\"model\":").unwrap();
    copy.is_refused_naming(&["tokenizer_2/tokenizer.json", "not a JSON object"]);
}
