//! A model in several files, one of which is hostile: it is refused with an error, or loaded and drawn with, two steps and a
//! picture. No panic, and no memory taken by what a file says.
//!
//! The first byte of the input says which file it is; with its highest bit the rest of the input is the beginning of that
//! file, before its data, and else changes of it.
#![no_main]

#[path = "shared/mod.rs"]
mod shared;

use std::{path::PathBuf, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use sd_worker_rbee::diffusion::{self, DType, Device, DiffusionError, ImageSpec, Named, Source};
use serde_json::json;
use shared::{Choices, Tensor, TensorFile, data, data_of, folder};
use tempfile::TempDir;

/// Changes of one input.
const MOST_CHANGES: usize = 8;
/// What names are changed to end with, and tensors of those names are put beside.
const ENDS: [&str; 16] = [
    ".weight",
    ".bias",
    ".weight_scale",
    ".scale_weight",
    ".input_scale",
    ".weight_scale_2",
    ".comfy_quant",
    ".scale",
    ".qkv.weight",
    ".to_q.weight",
    ".linear1.weight",
    ".q_norm.weight",
    ".position_embedding.weight",
    ".conv_in.weight",
    ".norm.weight",
    ".0.weight",
];
/// Tensors that are put for their names.
const MARKS: [&str; 9] = [
    "scaled_fp8",
    "model.diffusion_model.scaled_fp8",
    "v_pred",
    "ztsnr",
    "edm_mean",
    "label_emb.0.0.weight",
    "double_blocks.0.img_attn.norm.key_norm.scale",
    "cap_pad_token",
    "layers.0.adaLN_modulation.0.weight",
];
const TYPES: [&str; 10] = ["F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2", "U8", "I64", "F8_E8M0", "F4"];
/// What the header says.
const NOTES: [(&str, &str); 5] = [
    ("modelspec.prediction_type", "v"),
    ("modelspec.title", "\u{1b}[2J"),
    ("_quantization_metadata", "{\"layers\": {\"conv_in\": {\"format\": \"nvfp4\"}}}"),
    ("_quantization_metadata", "{\"layers\": []}"),
    ("_quantization_metadata", "?"),
];

/// The sound files, and where each is: a UNet, its VAE and its text encoder, and transformers of two folders.
struct Files {
    folder: TempDir,
    sound: Vec<TensorFile>,
}

/// The file that a form begins with, and what is named beside it.
const NAMES: [&str; 5] = ["unet", "vae", "text_encoder", "flux", "z_image"];

static FILES: LazyLock<Files> = LazyLock::new(|| {
    let all = TensorFile::read(&data("single_file.sd1.safetensors"));
    let transformer = |checkpoint: &str, network: &str| {
        let own = TensorFile::read(&data(checkpoint).join("transformer/diffusion_pytorch_model.safetensors"));
        own.original(&data("originals.json"), network, "")
    };
    let sound = vec![
        all.part("model.diffusion_model.", "model.diffusion_model."),
        all.part("first_stage_model.", ""),
        all.part("cond_stage_model.transformer.", ""),
        transformer("flux/schnell", "flux"),
        transformer("z_image/turbo", "z_image"),
    ];
    let files = Files { folder: folder(), sound };
    (0..NAMES.len()).for_each(|which| files.write(which, &files.sound[which].bytes()));
    files
});

impl Files {
    fn path(&self, which: usize) -> PathBuf {
        self.folder.path().join(format!("{}.safetensors", NAMES[which]))
    }

    fn write(&self, which: usize, bytes: &[u8]) {
        std::fs::write(self.path(which), bytes).expect("a file");
    }

    /// The model that a file is of.
    fn model(&self, which: usize) -> (PathBuf, Vec<Named>) {
        let transformer = |folder: &str| (data(folder), vec![("transformer".into(), self.path(which))]);
        match which {
            3 => transformer("flux/schnell"),
            4 => transformer("z_image/turbo"),
            _ => (self.path(0), [1, 2].map(|other| (NAMES[other].into(), self.path(other))).into()),
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else { return };
    let which = usize::from(first & 0x7f) % NAMES.len();
    let sound = &FILES.sound[which];
    let bytes = match first & 0x80 == 0 {
        true => changed(sound.clone(), rest).bytes(),
        false => [rest, data_of(&sound.bytes())].concat(),
    };
    FILES.write(which, &bytes);
    let (path, named) = FILES.model(which);
    if let Err(error) = draw(&path, &named) {
        assert!(!error.to_string().is_empty());
    }
    FILES.write(which, &sound.bytes());
});

fn changed(mut file: TensorFile, input: &[u8]) -> TensorFile {
    let mut choices = Choices(input);
    for _ in 0..MOST_CHANGES {
        let (Some(at), Some(how), Some(what)) = (choices.next(), choices.next(), choices.next()) else {
            break;
        };
        // Two bytes would reach every tensor; the first of them reach every layer's kind.
        let at = (at * 7) % file.tensors.len().max(1);
        let Some(name) = file.tensors.keys().nth(at).cloned() else { break };
        let layer = name.rsplit_once('.').map_or(name.as_str(), |(layer, _)| layer).to_owned();
        match how % 8 {
            0 => drop(file.tensors.remove(&name)),
            1 => {
                let tensor = file.tensors.remove(&name).expect("a tensor");
                file.tensors.insert(format!("{layer}{}", ENDS[what % ENDS.len()]), tensor);
            }
            2 => file.tensors.get_mut(&name).expect("a tensor").dtype = TYPES[what % TYPES.len()].into(),
            3 => {
                let shape = &mut file.tensors.get_mut(&name).expect("a tensor").shape;
                match what % 4 {
                    0 => shape.reverse(),
                    1 => shape.push(1),
                    2 => shape.iter_mut().for_each(|side| *side = side.wrapping_mul(1 << 20)),
                    _ => drop(shape.pop()),
                }
            }
            4 => {
                let bytes = vec![what as u8; 4 * (choices.next().unwrap_or(1) % 65)];
                let tensor = Tensor { dtype: "F32".into(), shape: vec![bytes.len() / 4], bytes };
                file.tensors.insert(format!("{layer}{}", ENDS[what % ENDS.len()]), tensor);
            }
            5 => {
                let tensor = Tensor { dtype: "F32".into(), shape: vec![0], bytes: vec![] };
                file.tensors.insert(MARKS[what % MARKS.len()].into(), tensor);
            }
            6 => {
                // A weight in fp8: the upper halves of its numbers.
                let tensor = file.tensors.get_mut(&name).expect("a tensor");
                if tensor.dtype == "F16" || tensor.dtype == "BF16" {
                    tensor.bytes = tensor.bytes.iter().skip(1).step_by(2).copied().collect();
                    tensor.dtype = TYPES[4 + what % 2].into();
                }
            }
            _ => {
                let (key, value) = NOTES[what % NOTES.len()];
                file.notes = Some(json!({ key: value }));
            }
        }
    }
    file
}

fn draw(path: &std::path::Path, named: &[Named]) -> Result<(), DiffusionError> {
    let opened = diffusion::open_with(path, named)?;
    opened.inspect(&Device::Cpu, DType::F32.into())?;
    opened.identity(DType::F32.into())?;
    let model = opened.load(&Device::Cpu, DType::F32.into())?;
    let text = Source::Text { width: 64, height: 64 };
    let spec = ImageSpec { steps: 2, guidance_scale: 3.0, seed: 1, ..ImageSpec::new("a red circle", text) };
    let mut picture = model.begin(&spec)?;
    while !picture.is_done() {
        model.advance(&mut [&mut picture])?;
    }
    model.finish(&picture)?;
    Ok(())
}
