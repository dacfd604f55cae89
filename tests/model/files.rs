//! Models as people have them: a network by its makers' names in a file of its own, components in several files, others in
//! place of a folder's. Each draws the picture, bit for bit, that the same weights draw in the diffusers layout.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    support::{copy_folder, data},
    tensor_file::TensorFile,
};
use candle_core::{DType, Device};
use image::RgbImage;
use sd_worker_rbee::{
    diffusion::{self, ImageSpec, Opened, Source},
    engine::InferencePipeline,
    models::{ModelIdentity, ModelSources},
};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const TRANSFORMER: &str = "transformer/diffusion_pytorch_model.safetensors";
pub const VAE: &str = "vae/diffusion_pytorch_model.safetensors";

/// Files to be written, and what was found of them.
pub struct Files(TempDir);

impl Files {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub fn write(&self, name: &str, file: &TensorFile) -> PathBuf {
        let path = self.0.path().join(name);
        file.write(&path);
        path
    }

    /// A copy of a folder, to be changed.
    pub fn copy(&self, folder: &str) -> PathBuf {
        let copy = self.0.path().join("copy");
        copy_folder(&data(folder), &copy);
        copy
    }
}

pub fn open(path: &Path, named: &[(&str, &Path)]) -> Opened {
    try_open(path, named).unwrap()
}

fn try_open(path: &Path, named: &[(&str, &Path)]) -> Result<Opened, String> {
    let named: Vec<_> = named.iter().map(|(name, path)| ((*name).to_owned(), (*path).to_owned())).collect();
    diffusion::open_with(path, &named).map_err(|error| error.to_string())
}

/// The error of opening or of loading, which holds every part.
pub fn refused(path: &Path, named: &[(&str, &Path)], parts: &[&str]) {
    let opened = try_open(path, named);
    let loaded = opened
        .and_then(|opened| opened.load(&Device::Cpu, DType::F32.into()).map_err(|error| error.to_string()));
    let error = loaded.err().unwrap_or_else(|| panic!("it was loaded; expected an error with {parts:?}"));
    for part in parts {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
}

fn spec() -> ImageSpec {
    let text = Source::Text { width: 32, height: 48 };
    ImageSpec { steps: 2, guidance_scale: 2.0, seed: 5, ..ImageSpec::new("a red circle", text) }
}

fn draw(opened: &Opened) -> RgbImage {
    let model = opened.load(&Device::Cpu, DType::F32.into()).unwrap();
    let mut picture = model.begin(&spec()).unwrap();
    while !picture.is_done() {
        model.advance(&mut [&mut picture]).unwrap();
    }
    model.finish(&picture).unwrap()
}

/// The tensors of a component by its makers' names.
pub fn original(network: &str, file: &TensorFile, prefix: &str) -> TensorFile {
    file.original(&data("originals.json"), network, prefix)
}

pub fn part(file: &TensorFile, prefix: &str, new: &str) -> TensorFile {
    file.part(prefix, new)
}

fn joined(parts: Vec<TensorFile>) -> TensorFile {
    TensorFile { tensors: parts.into_iter().flat_map(|part| part.tensors).collect(), notes: None }
}

fn set(folder: &Path, file: &str, values: Value) {
    let path = folder.join(file);
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config.as_object_mut().unwrap().extend(values.as_object().unwrap().clone());
    fs::write(path, config.to_string()).unwrap();
}

#[test]
fn a_transformer_by_its_makers_names_in_place_of_a_folder_s_draws_the_same_picture() {
    for (checkpoint, network) in
        [("flux/dev", "flux"), ("flux/schnell", "flux"), ("z_image/turbo", "z_image")]
    {
        let (files, folder) = (Files::new(), data(checkpoint));
        let own = TensorFile::read(&folder.join(TRANSFORMER));
        let whole = open(&folder, &[]);
        let picture = draw(&whole);
        for prefix in ["", "model.diffusion_model."] {
            let path = files.write("transformer.safetensors", &original(network, &own, prefix));
            let opened = open(&folder, &[("transformer", &path)]);
            let weights = |opened: &Opened| {
                opened.checkpoint().weights("transformer", &Device::Cpu, DType::F32).unwrap()
            };
            let (theirs, ours) = (weights(&whole), weights(&opened));
            for (name, tensor) in &own.tensors {
                let read = |weights: &diffusion::Weights| {
                    let tensor = weights.root().tensor(name, &tensor.shape).unwrap();
                    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
                };
                assert_eq!(read(&ours), read(&theirs), "{checkpoint} {prefix}{name}");
            }
            assert_eq!(ours.elements(), theirs.elements(), "{checkpoint}");
            assert_eq!(draw(&opened), picture, "{checkpoint} {prefix}");
        }
        let opened = open(&folder, &[("transformer", &folder.join(TRANSFORMER))]);
        assert_eq!(draw(&opened), picture, "{checkpoint}, by diffusers' names");
    }
}

#[test]
fn a_vae_by_its_makers_names_alone_in_a_folder_or_in_a_checkpoint_is_the_same() {
    let (files, folder) = (Files::new(), data("flux/dev"));
    let own = TensorFile::read(&folder.join(VAE));
    let picture = draw(&open(&folder, &[]));
    let mut trained = original("vae", &own, "");
    trained.put("loss.discriminator.main.0.weight", &[64, 64]);
    let places = [
        files.write("ae.safetensors", &original("vae", &own, "")),
        files.write("in_checkpoint.safetensors", &original("vae", &own, "first_stage_model.")),
        files.write("trained.safetensors", &trained),
        folder.join(VAE),
        folder.join("vae"),
        folder.clone(),
    ];
    let bytes = |opened: &Opened| opened.inspect(&Device::Cpu, DType::F32.into()).unwrap().weight_bytes;
    for place in &places {
        let opened = open(&folder, &[("vae", place)]);
        assert_eq!(draw(&opened), picture, "{}", place.display());
        assert_eq!(bytes(&opened), bytes(&open(&folder, &[])), "{}", place.display());
    }
    let mut other = own.clone();
    other.put("decoder.conv_out.bias", &[3]);
    let other = files.write("other.safetensors", &other);
    assert_ne!(draw(&open(&folder, &[("vae", &other)])), picture);
}

/// A Flux checkpoint with heads of the published width, in the diffusers layout; its transformer is of one block each.
pub fn wide_flux(files: &Files) -> (PathBuf, TensorFile) {
    const WIDTH: usize = 128;
    let folder = files.copy("flux/dev");
    let config = json!({ "attention_head_dim": 128, "num_attention_heads": 1, "axes_dims_rope": [16, 56, 56],
        "num_layers": 1, "num_single_layers": 1 });
    set(&folder, "transformer/config.json", config);
    // No tensor tells the heads of CLIP: in published ones they have 64 numbers.
    set(&folder, "text_encoder/config.json", json!({ "num_attention_heads": 1 }));
    let mut wide = TensorFile::default();
    for (name, tensor) in &TensorFile::read(&folder.join(TRANSFORMER)).tensors {
        if name.contains("blocks.1.") {
            continue;
        }
        // The small one is 32 wide, as the text is.
        let mut shape: Vec<usize> = match name.as_str() {
            "context_embedder.weight" => vec![WIDTH, 32],
            "time_text_embed.text_embedder.linear_1.weight" => vec![WIDTH, 24],
            "x_embedder.weight" => vec![WIDTH, 64],
            "proj_out.weight" => vec![64, WIDTH],
            "proj_out.bias" => vec![64],
            _ => tensor.shape.iter().map(|side| if *side == 256 { 256 } else { side * 4 }).collect(),
        };
        if name.contains(".attn.norm_") {
            shape = vec![128];
        }
        wide.put(name, &shape);
    }
    wide.write(&folder.join(TRANSFORMER));
    (folder, wide)
}

#[test]
fn flux_in_several_files_and_in_one_draws_what_the_folder_draws() {
    let files = Files::new();
    let (folder, transformer) = wide_flux(&files);
    let picture = draw(&open(&folder, &[]));
    let vae = original("vae", &TensorFile::read(&folder.join(VAE)), "");
    let clip = TensorFile::read(&folder.join("text_encoder/model.safetensors"));
    let t5 = TensorFile::read(&folder.join("text_encoder_2/model.safetensors"));
    let main = files.write("flux1-dev.safetensors", &original("flux", &transformer, ""));
    let (vae_file, clip_file, t5_file) = (
        files.write("ae.safetensors", &vae),
        files.write("clip_l.safetensors", &part(&clip, "", "text_model.")),
        files.write("t5xxl.safetensors", &t5),
    );
    let (tokenizer, tokenizer_2) = (folder.join("tokenizer"), folder.join("tokenizer_2/tokenizer.json"));
    let named: [(&str, &Path); 5] = [
        ("vae", &vae_file),
        ("text_encoder", &clip_file),
        ("text_encoder_2", &t5_file),
        ("tokenizer", &tokenizer),
        ("tokenizer_2", &tokenizer_2),
    ];
    let several = open(&main, &named);
    assert_eq!(draw(&several), picture);
    let inspected = |opened: &Opened| opened.inspect(&Device::Cpu, DType::F32.into()).unwrap();
    assert_eq!(inspected(&several), inspected(&open(&folder, &[])));
    let identity = |opened: &Opened| opened.identity(DType::F32.into()).unwrap();
    assert_eq!(identity(&several), identity(&open(&main, &named)));
    // Each that is missing is named; CLIP's tokenizer is the program's.
    for left_out in ["vae", "text_encoder", "text_encoder_2", "tokenizer_2"] {
        let rest: Vec<_> = named.iter().copied().filter(|(name, _)| *name != left_out).collect();
        let how = format!("`{left_out}=PATH`");
        refused(&main, &rest, &["flux1-dev.safetensors", &format!("`{left_out}`"), &how]);
    }
    let one = joined(vec![
        original("flux", &transformer, "model.diffusion_model."),
        part(&vae, "", "vae."),
        part(&clip, "", "text_encoders.clip_l.transformer.text_model."),
        part(&t5, "", "text_encoders.t5xxl.transformer."),
    ]);
    let one = open(&files.write("all.safetensors", &one), &named[3..]);
    assert_eq!(draw(&one), picture);
    assert_eq!(inspected(&one), inspected(&several));
}

#[test]
fn z_image_in_several_files_draws_what_the_folder_draws() {
    const WIDTH: usize = 128;
    let files = Files::new();
    let folder = files.copy("z_image/turbo");
    let config = json!({ "dim": WIDTH, "n_heads": 1, "n_kv_heads": 1, "axes_dims": [32, 48, 48] });
    set(&folder, "transformer/config.json", config);
    let mut wide = TensorFile::default();
    for (name, tensor) in &TensorFile::read(&folder.join(TRANSFORMER)).tensors {
        // The small one is 24 wide with heads of 12, as the caption is; 64 inside, and in a token.
        let side = |side: &usize| match side {
            12 | 24 => WIDTH,
            96 => 4 * WIDTH,
            64 if name.contains("feed_forward") => WIDTH / 3 * 8 + 5,
            other => *other,
        };
        let shape: Vec<usize> = match name.as_str() {
            "cap_embedder.0.weight" => vec![24],
            "cap_embedder.1.weight" => vec![WIDTH, 24],
            _ => tensor.shape.iter().map(side).collect(),
        };
        wide.put(name, &shape);
    }
    wide.write(&folder.join(TRANSFORMER));
    let picture = draw(&open(&folder, &[]));
    let vae = original("vae", &TensorFile::read(&folder.join(VAE)), "");
    let qwen = TensorFile::read(&folder.join("text_encoder/model.safetensors"));
    let (vae, text) =
        (files.write("ae.safetensors", &vae), files.write("qwen.safetensors", &part(&qwen, "", "model.")));
    let tokenizer = folder.join("tokenizer");
    let named: [(&str, &Path); 3] = [("vae", &vae), ("text_encoder", &text), ("tokenizer", &tokenizer)];
    for (name, main) in [
        ("fused.safetensors", original("z_image", &wide, "")),
        ("prefixed.safetensors", original("z_image", &wide, "model.diffusion_model.")),
        ("diffusers.safetensors", wide.clone()),
    ] {
        let main = files.write(name, &main);
        let opened = open(&main, &named);
        assert_eq!(draw(&opened), picture, "{name}");
        let inspected = |opened: &Opened| opened.inspect(&Device::Cpu, DType::F32.into()).unwrap();
        assert_eq!(inspected(&opened), inspected(&open(&folder, &[])), "{name}");
        for left_out in 0..named.len() {
            let mut rest = named.to_vec();
            let (component, _) = rest.remove(left_out);
            refused(&main, &rest, &[name, &format!("`{component}`"), &format!("`{component}=PATH`")]);
        }
    }
}

#[test]
fn a_unet_alone_draws_with_the_rest_from_other_files_what_the_whole_file_draws() {
    let (files, whole) = (Files::new(), data("single_file.sd1.safetensors"));
    let all = TensorFile::read(&whole);
    let picture = draw(&open(&whole, &[]));
    let vae = files.write("vae.safetensors", &part(&all, "first_stage_model.", ""));
    let text = files.write("clip_l.safetensors", &part(&all, "cond_stage_model.transformer.", ""));
    let unet = part(&all, "model.diffusion_model.", "model.diffusion_model.");
    let bare = part(&all, "model.diffusion_model.", "");
    for unet in [files.write("unet.safetensors", &unet), files.write("bare.safetensors", &bare)] {
        let opened = open(&unet, &[("vae", &vae), ("text_encoder", &text)]);
        assert_eq!(draw(&opened), picture);
        let inspected = |opened: &Opened| opened.inspect(&Device::Cpu, DType::F32.into()).unwrap();
        assert_eq!(inspected(&opened).defaults, inspected(&open(&whole, &[])).defaults);
        // From a whole checkpoint, too.
        assert_eq!(draw(&open(&unet, &[("vae", &whole), ("text_encoder", &whole)])), picture);
        refused(&unet, &[("vae", &vae)], &["`text_encoder`", "`text_encoder=PATH`", "saved without"]);
    }
    let without_vae = joined(vec![unet, part(&all, "cond_stage_model.", "cond_stage_model.")]);
    let without_vae = files.write("no_vae.safetensors", &without_vae);
    refused(&without_vae, &[], &["no_vae.safetensors", "`vae`", "`vae=PATH`", "saved without"]);
    assert_eq!(draw(&open(&without_vae, &[("vae", &vae)])), picture);
    let mut other = part(&all, "first_stage_model.", "");
    other.put("decoder.conv_out.bias", &[3]);
    let other = files.write("other.safetensors", &other);
    assert_ne!(draw(&open(&whole, &[("vae", &other)])), picture, "the named VAE is used, not the file's own");
    assert_eq!(draw(&open(&whole, &[("vae", &vae)])), picture);
}

#[test]
fn every_kind_of_unet_alone_is_told_by_itself() {
    let files = Files::new();
    for family in ["sd1", "sd1_inpainting", "sd2", "xl_base", "xl_refiner"] {
        let whole = data(&format!("single_file.{family}.safetensors"));
        let all = TensorFile::read(&whole);
        let unet =
            files.write("unet.safetensors", &part(&all, "model.diffusion_model.", "model.diffusion_model."));
        let expected = open(&whole, &[]);
        let texts =
            ["text_encoder", "text_encoder_2"].into_iter().filter(|name| expected.checkpoint().has(name));
        let named: Vec<(&str, &Path)> = texts.chain(["vae"]).map(|name| (name, whole.as_path())).collect();
        let opened = open(&unet, &named);
        assert_eq!(opened.checkpoint().index().json(), expected.checkpoint().index().json(), "{family}");
        for component in ["unet", "vae", "scheduler", "text_encoder", "text_encoder_2"] {
            let config =
                |opened: &Opened| opened.checkpoint().config(component).ok().map(|config| config.json());
            assert_eq!(config(&opened), config(&expected), "{family} {component}");
        }
    }
}

#[test]
fn averages_and_other_passengers_are_neither_used_nor_counted() {
    let (files, whole) = (Files::new(), data("single_file.sd1.safetensors"));
    let mut all = TensorFile::read(&whole);
    let unet = part(&all, "model.diffusion_model.", "").tensors;
    all.tensors.extend(unet.into_iter().map(|(name, mut tensor)| {
        tensor.bytes.fill(0x3c);
        (format!("model_ema.diffusion_model{}", name.replace('.', "")), tensor)
    }));
    all.put("first_stage_model.loss.discriminator.main.0.weight", &[64, 64]);
    all.put("alphas_cumprod", &[1000]);
    all.put("optimizer.state.0", &[64, 64]);
    let loaded = open(&files.write("ema.safetensors", &all), &[]);
    let inspected = |opened: &Opened| opened.inspect(&Device::Cpu, DType::F32.into()).unwrap();
    assert_eq!(inspected(&loaded), inspected(&open(&whole, &[])));
    assert_eq!(draw(&loaded), draw(&open(&whole, &[])));
}

#[test]
fn what_a_file_says_of_itself_is_told() {
    let files = Files::new();
    let mut file = TensorFile::read(&data("single_file.sd1.safetensors"));
    file.notes = Some(json!({ "modelspec.license": "openrail++", "modelspec.title": "Tiny\nShapes",
        "modelspec.resolution": "32x16" }));
    let opened = open(&files.write("a.safetensors", &file), &[]);
    let checkpoint = opened.checkpoint();
    assert_eq!(checkpoint.licence().unwrap(), "openrail++");
    assert_eq!(
        (checkpoint.title().unwrap(), checkpoint.resolution().unwrap()),
        ("TinyShapes".into(), "32x16".into())
    );
    let plain = open(&data("single_file.sd1.safetensors"), &[]);
    assert_eq!((plain.checkpoint().title(), plain.checkpoint().resolution()), (None, None));
    assert_eq!(open(&data("text"), &[]).checkpoint().title(), None);
}

#[test]
fn a_worker_draws_with_a_model_of_several_files_by_its_name() {
    let (files, whole) = (Files::new(), data("single_file.sd1.safetensors"));
    let all = TensorFile::read(&whole);
    let unet = files.write("unet.safetensors", &part(&all, "model.diffusion_model.", ""));
    let vae = files.write("vae.safetensors", &part(&all, "first_stage_model.", ""));
    let text = format!("mine={},vae={},text_encoder={}", unet.display(), vae.display(), whole.display());
    let sources: ModelSources = text.parse().unwrap();
    let pipeline = InferencePipeline::load(&sources.0, &Device::Cpu).unwrap();
    let mut picture = pipeline.begin("mine", &spec()).unwrap();
    while !picture.is_done() {
        pipeline.advance("mine", &mut [&mut picture]).unwrap();
    }
    assert_eq!(pipeline.finish("mine", &picture).unwrap(), draw(&open(&whole, &[])));
    let identity = |source| ModelIdentity::of(source, &Device::Cpu, DType::F32.into()).unwrap();
    let before = identity(&sources.0[0]);
    // What is mapped is not written into.
    drop((picture, pipeline));
    let mut other = part(&all, "first_stage_model.", "");
    other.put("decoder.conv_out.bias", &[3]);
    other.write(&vae);
    assert_eq!(identity(&sources.0[0]).differences(&before), ["the weights of `vae`"]);
}
