//! LoRA files that cannot be used: the error names the request's field, the file, the key, what was expected and found.

use std::{collections::HashMap, path::Path};

use crate::support::{data, model};
use candle_core::{DType, Device, Tensor};
use sd_worker_rbee::{
    contract::ErrorCode,
    diffusion::{DiffusionError, ImageSpec, LoraSpec, Source},
};
use tempfile::TempDir;

/// A layer of the checkpoint `text`: 16 in, 16 out.
const QUERY: &str = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

/// The error of a file for the checkpoint `text`, as the second LoRA of a job.
fn error_of_file(file: &Path) -> DiffusionError {
    let good = LoraSpec { name: "old".into(), file: data("loras/text/old.safetensors"), strength: 1.0 };
    let spec = ImageSpec {
        steps: 1,
        guidance_scale: 1.0,
        seed: 1,
        loras: vec![good, LoraSpec { name: "bad".into(), file: file.into(), strength: 1.0 }],
        ..ImageSpec::new("a red circle", Source::Text { width: 64, height: 64 })
    };
    model("text").begin(&spec).err().expect("an error")
}

/// The error of a good pair of matrices for [`QUERY`] with these tensors besides, or in place of them.
fn refused(more: &[(&str, Tensor)], parts: &[&str]) {
    let mut tensors = HashMap::from([
        (format!("{QUERY}.lora_down.weight"), zeros(&[2, 16])),
        (format!("{QUERY}.lora_up.weight"), zeros(&[16, 2])),
    ]);
    tensors.extend(more.iter().map(|(key, tensor)| (key.replace("QUERY", QUERY), tensor.clone())));
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("bad.safetensors");
    candle_core::safetensors::save(&tensors, &file).unwrap();
    let error = error_of_file(&file);
    assert_eq!(error.code(), ErrorCode::InvalidRequest, "{error}");
    let text = error.to_string();
    for part in [&["`loras[1].path`: bad: `"], parts].concat() {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
fn a_lora_for_another_family_is_refused_by_its_first_layer_that_there_is_not() {
    let error = error_of_file(&data("loras/xl/original.safetensors"));
    let text = error.to_string();
    assert_eq!(error.code(), ErrorCode::InvalidRequest, "{error}");
    assert!(text.contains("lora_te2_text_model") || text.contains("lora_unet_input_blocks"), "{text}");
    assert!(text.contains("expected a layer of this model"), "{text}");
}

#[test]
fn matrices_of_another_shape_are_refused_with_both_shapes() {
    refused(&[("QUERY.lora_down.weight", zeros(&[2, 320]))], &["lora_down.weight`", "[2, 16]", "[2, 320]"]);
    refused(&[("QUERY.lora_up.weight", zeros(&[16, 4]))], &["lora_up.weight`", "[16, 2]", "[16, 4]"]);
    refused(&[("QUERY.lora_down.weight", zeros(&[2, 16, 3, 3]))], &["[2, 16]", "[2, 16, 3, 3]"]);
    refused(&[("QUERY.lora_down.weight", zeros(&[0, 16]))], &["a rank of at least 1"]);
    refused(&[("QUERY.alpha", zeros(&[2]))], &["alpha`", "one number", "[2]"]);
}

#[test]
fn an_alpha_that_is_no_number_is_refused() {
    let nan = Tensor::new(f32::NAN, &Device::Cpu).unwrap();
    refused(&[("QUERY.alpha", nan)], &["alpha`", "a finite number", "NaN"]);
}

#[test]
fn other_methods_are_refused_by_their_names() {
    for (key, method) in [
        ("hada_w1_a", "LoHa"),
        ("lokr_w1", "LoKr"),
        ("dora_scale", "DoRA"),
        ("lora_mid.weight", "CP decomposition"),
        ("diff", "another key"),
    ] {
        let key = format!("QUERY.{key}");
        refused(&[(&key, zeros(&[16, 16]))], &[&key.replace("QUERY", QUERY), method]);
    }
}

#[test]
fn half_a_pair_and_a_layer_by_two_names_are_refused() {
    refused(&[("lora_unet_conv_in.lora_down.weight", zeros(&[2, 4, 3, 3]))], &["up from the rank", "none"]);
    let unet = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1";
    let (down, up) = (format!("{unet}.to_q.lora_A.weight"), format!("{unet}.to_q.lora_B.weight"));
    refused(&[(&down, zeros(&[2, 16])), (&up, zeros(&[16, 2]))], &["once", "another name"]);
    let old = format!("{unet}.processor.to_q_lora.down.weight");
    refused(
        &[(&down, zeros(&[2, 16])), (&up, zeros(&[16, 2])), (&old, zeros(&[2, 16]))],
        &["one matrix of its kind", "to_q_lora"],
    );
}

#[test]
fn files_that_are_no_lora_are_refused() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("bad.safetensors");
    candle_core::safetensors::save(&HashMap::<String, Tensor>::new(), &file).unwrap();
    assert!(error_of_file(&file).to_string().contains("expected at least one layer"), "empty");
    let checkpoint = data("single_file.sd1.safetensors");
    assert!(error_of_file(&checkpoint).to_string().contains("expected a key of a LoRA"), "a checkpoint");

    let whole = std::fs::read(data("loras/text/old.safetensors")).unwrap();
    let hostile = [&(1_u64 << 60).to_le_bytes()[..], b"{}"].concat();
    for bytes in [&whole[..whole.len() / 2], &hostile, b"", b"nonsense, but long enough"] {
        std::fs::write(&file, bytes).unwrap();
        let text = error_of_file(&file).to_string();
        assert!(text.contains("bad.safetensors"), "{text}");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(error_of_file(&file), DiffusionError::Read { .. }));
}
