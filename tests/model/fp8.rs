//! Checkpoints whose weights are in fp8: plain, and with every form of scale that is read; and those that are refused.

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

use crate::{
    support::data,
    tensor_file::{Tensor as Stored, TensorFile},
};
use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use sd_worker_rbee::diffusion::{self, Flux, ImageSpec, Source};
use serde_json::json;
use tempfile::TempDir;

const FLUX: &str = "flux/schnell";
/// A layer of it.
const LAYER: &str = "transformer_blocks.0.attn.to_q";

/// The transformer of a small Flux checkpoint, to be stored otherwise in a file of its own.
struct Transformer {
    folder: TempDir,
    file: TensorFile,
}

impl Transformer {
    fn new() -> Self {
        let path = data(FLUX).join("transformer/diffusion_pytorch_model.safetensors");
        Self { folder: TempDir::new().unwrap(), file: TensorFile::read(&path) }
    }

    /// Those of its weights that are products' in fp8, and the others as they are. `scale` gives each its number, and says
    /// what else its layer has.
    fn narrowed(&self, to: &str, scale: impl Fn(&str) -> (f32, Vec<(String, Stored)>)) -> TensorFile {
        let mut file = self.file.clone();
        for (name, tensor) in &self.file.tensors {
            let Some(layer) = name.strip_suffix(".weight").filter(|_| tensor.shape.len() == 2) else {
                continue;
            };
            let (factor, more) = scale(layer);
            let numbers: Vec<f32> = numbers(tensor).iter().map(|x| x / factor).collect();
            let bytes = numbers.iter().map(|x| byte(*x, to)).collect();
            file.tensors
                .insert(name.clone(), Stored { dtype: to.into(), shape: tensor.shape.clone(), bytes });
            file.tensors.extend(more.into_iter().map(|(end, tensor)| (format!("{layer}.{end}"), tensor)));
        }
        file
    }

    /// A file in the folder.
    fn write(&self, name: &str, file: &TensorFile) -> PathBuf {
        let path = self.folder.path().join(name);
        file.write(&path);
        path
    }

    /// The error of a file in place of the checkpoint's own.
    fn refusal(&self, file: &TensorFile) -> String {
        load(&self.write("bad.safetensors", file)).err().expect("an error")
    }
}

/// What a tensor of F16 holds.
fn numbers(tensor: &Stored) -> Vec<f32> {
    let pairs = tensor.bytes.chunks_exact(2);
    pairs.map(|bytes| half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()).collect()
}

fn f32s(values: &[f32], shape: &[usize]) -> Stored {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Stored { dtype: "F32".into(), shape: shape.to_vec(), bytes }
}

/// The numbers of E4M3, as candle widens them; its NaNs stand for nothing here.
static E4M3: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let bytes: Vec<u8> = (0..=255).collect();
    let tensor = Tensor::from_raw_buffer(&bytes, DType::F8E4M3, &[256], &Device::Cpu).unwrap();
    tensor.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
});

/// The nearest number of E4M3, or an f16 cut to its upper half.
fn byte(value: f32, to: &str) -> u8 {
    if to == "F8_E5M2" {
        return half::f16::from_f32(value).to_le_bytes()[1];
    }
    let distance = |byte: &u8| (E4M3[usize::from(*byte)] - value).abs();
    let finite = (0..=255_u8).filter(|byte| byte & 0x7f != 0x7f);
    finite.min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap()
}

/// The checkpoint with another transformer.
fn load(transformer: &Path) -> Result<Flux, String> {
    let named = [("transformer".to_owned(), transformer.to_owned())];
    let opened = diffusion::open_with(&data(FLUX), &named).map_err(|error| error.to_string())?;
    Flux::load(&opened, &Device::Cpu, DType::F32).map_err(|error| error.to_string())
}

fn draw(model: &Flux) -> RgbImage {
    let text = Source::Text { width: 32, height: 48 };
    let spec = ImageSpec { steps: 2, guidance_scale: 0.0, ..ImageSpec::new("a red circle", text) };
    let mut picture = model.begin(&spec).unwrap();
    while !picture.is_done() {
        model.advance(&mut [&mut picture]).unwrap();
    }
    model.finish(&picture).unwrap()
}

#[test]
fn a_picture_with_plain_fp8_is_that_of_the_same_numbers_in_f16() {
    let transformer = Transformer::new();
    for dtype in ["F8_E4M3", "F8_E5M2"] {
        let narrow = transformer.narrowed(dtype, |_| (1.0, vec![]));
        let mut wide = narrow.clone();
        for tensor in wide.tensors.values_mut().filter(|tensor| tensor.dtype == dtype) {
            let value = |byte: &u8| match dtype {
                "F8_E5M2" => half::f16::from_le_bytes([0, *byte]),
                _ => half::f16::from_f32(E4M3[usize::from(*byte)]),
            };
            tensor.bytes = tensor.bytes.iter().flat_map(|byte| value(byte).to_le_bytes()).collect();
            tensor.dtype = "F16".into();
        }
        let draw = |name, file| draw(&load(&transformer.write(name, file)).unwrap());
        let picture = draw("narrow.safetensors", &narrow);
        assert_eq!(picture, draw("wide.safetensors", &wide), "{dtype}");
        assert_ne!(picture, draw("own.safetensors", &transformer.file), "{dtype} rounds");
    }
}

#[test]
fn a_picture_is_the_same_by_either_name_of_a_scale_and_another_without() {
    let transformer = Transformer::new();
    let scaled = |name: &str| {
        transformer.narrowed("F8_E4M3", |layer| {
            let factor = 2f32.powi(-(layer.len() as i32 % 5) - 2);
            (factor, vec![(name.to_owned(), f32s(&[factor], &[]))])
        })
    };
    let mut old = scaled("scale_weight");
    old.tensors
        .insert("scaled_fp8".into(), Stored { dtype: "F8_E4M3".into(), shape: vec![0], bytes: vec![] });
    let new = scaled("weight_scale");
    let picture = |file: &TensorFile| draw(&load(&transformer.write("a.safetensors", file)).unwrap());
    assert_eq!(picture(&old), picture(&new));
    let mut without = new.clone();
    without.tensors.retain(|name, _| !name.ends_with(".weight_scale"));
    assert_ne!(picture(&new), picture(&without), "the scales change the picture");
}

#[test]
fn a_file_with_half_of_its_scales_is_refused_by_the_layer_that_lacks_one() {
    let transformer = Transformer::new();
    let scaled =
        transformer.narrowed("F8_E4M3", |_| (1.0, vec![("weight_scale".into(), f32s(&[1.0], &[1]))]));
    let mut half = scaled.clone();
    half.tensors.remove(&format!("{LAYER}.weight_scale"));
    let text = transformer.refusal(&half);
    assert!(text.contains("bad.safetensors") && text.contains(&format!("`{LAYER}.scale_weight`")), "{text}");
    assert!(text.contains("found none"), "{text}");
    let mut marked = transformer.narrowed("F8_E4M3", |_| (1.0, vec![]));
    let mark = Stored { dtype: "F8_E4M3".into(), shape: vec![2], bytes: vec![0; 2] };
    marked.tensors.insert("scaled_fp8".into(), mark);
    let text = transformer.refusal(&marked);
    assert!(text.contains(".scale_weight`") && text.contains("found none"), "{text}");
}

#[test]
fn scales_and_formats_that_are_not_understood_are_refused_by_name() {
    let transformer = Transformer::new();
    let plain = transformer.narrowed("F8_E4M3", |_| (1.0, vec![]));
    let with = |end: &str, tensor: Stored| {
        let mut file = plain.clone();
        for (name, stored) in &plain.tensors {
            // Every weight has a scale, so that no layer lacks one.
            if let Some(layer) = name.strip_suffix(".weight").filter(|_| stored.dtype == "F8_E4M3") {
                file.tensors.insert(format!("{layer}.weight_scale"), f32s(&[1.0], &[]));
            }
        }
        file.tensors.insert(format!("{LAYER}.{end}"), tensor);
        transformer.refusal(&file)
    };
    let json = |text: &str| Stored { dtype: "U8".into(), shape: vec![text.len()], bytes: text.into() };
    for (end, tensor, expected) in [
        ("weight_scale", f32s(&[1.0; 8], &[8]), "one number for the weight, or one for each of its 32 rows"),
        ("weight_scale", f32s(&[f32::NAN], &[1]), "a finite number"),
        ("weight_scale", json("x"), "found U8"),
        ("weight_scale_2", f32s(&[1.0], &[]), "weight_scale_2"),
        ("comfy_quant", json(r#"{"format": "nvfp4"}"#), "nvfp4"),
        ("comfy_quant", json(r#"{"format": "float8_e5m2"}"#), "stored in F8_E4M3"),
        ("comfy_quant", json("?"), "no JSON object"),
    ] {
        let text = with(end, tensor);
        assert!(text.contains(&format!("`{LAYER}.{end}`")) && text.contains(expected), "{end}: {text}");
    }
    let mut noted = plain.clone();
    let note = json!({"format_version": "1.0", "layers": {LAYER: {"format": "mxfp8"}}}).to_string();
    noted.notes = Some(json!({ "_quantization_metadata": note }));
    let text = transformer.refusal(&noted);
    assert!(text.contains(LAYER) && text.contains("mxfp8"), "{text}");
    let mut wide = transformer.file.clone();
    wide.tensors.insert(format!("{LAYER}.weight_scale"), f32s(&[1.0], &[]));
    let text = transformer.refusal(&wide);
    assert!(text.contains(&format!("`{LAYER}.weight_scale`")) && text.contains("another type"), "{text}");
    let mut block = plain.clone();
    block.tensors.get_mut(&format!("{LAYER}.weight")).unwrap().dtype = "F8_E8M0".into();
    assert!(transformer.refusal(&block).contains("found F8_E8M0"));
}
