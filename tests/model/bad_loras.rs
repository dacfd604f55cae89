//! LoRA files that cannot be used: the error names the request's field, the file, the key, what was expected and found.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, SystemTime},
};

use crate::support::{data, model};
use candle_core::{DType, Device, Tensor};
use sd_worker_rbee::{
    contract::ErrorCode,
    diffusion::{DiffusionError, ImageSpec, LoraFileError, LoraSpec, Source, StableDiffusion},
};
use tempfile::TempDir;

/// A layer of the checkpoint `text`: 16 in, 16 out.
const QUERY: &str = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

fn spec(loras: Vec<LoraSpec>) -> ImageSpec {
    ImageSpec {
        steps: 1,
        guidance_scale: 1.0,
        seed: 1,
        loras,
        ..ImageSpec::new("a red circle", Source::Text { width: 64, height: 64 })
    }
}

/// The error of a file for the checkpoint `text`, as the second LoRA of a job.
fn error_of_file(file: &Path) -> DiffusionError {
    let good = LoraSpec { name: "old".into(), file: data("loras/text/old.safetensors"), strength: 1.0 };
    let bad = LoraSpec { name: "bad".into(), file: file.into(), strength: 1.0 };
    model("text").begin(&spec(vec![good, bad])).err().expect("an error")
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
    assert!(text.contains("the file is a LoRA for SDXL"), "{text}");
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
fn a_value_that_is_not_finite_is_refused_by_its_key() {
    let nan = Tensor::new(f32::NAN, &Device::Cpu).unwrap();
    refused(&[("QUERY.alpha", nan)], &["alpha`", "finite numbers", "NaN"]);
    for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
        let mut values = vec![0.5_f32; 32];
        values[17] = f32::NEG_INFINITY;
        let down = Tensor::from_vec(values, (2, 16), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        refused(&[("QUERY.lora_down.weight", down)], &["lora_down.weight`", "finite numbers", "-inf"]);
    }
}

#[test]
fn values_that_are_finite_and_too_large_end_in_a_picture_that_is_not_finite() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("bad.safetensors");
    let large = |shape: &[usize]| (Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap() * 1e38).unwrap();
    let tensors = HashMap::from([
        (format!("{QUERY}.lora_down.weight"), large(&[2, 16])),
        (format!("{QUERY}.lora_up.weight"), large(&[16, 2])),
    ]);
    candle_core::safetensors::save(&tensors, &file).unwrap();
    let model = model("text");
    let mut job = model.begin(&spec(vec![LoraSpec { name: "bad".into(), file, strength: 1.0 }])).unwrap();
    model.advance(&mut [&mut job]).unwrap();
    assert_eq!(model.finish(&job).unwrap_err().code(), ErrorCode::NonFinite);
}

#[test]
fn tensors_of_types_that_are_not_read_are_refused_by_their_type() {
    let alpha = Tensor::new(4_i64, &Device::Cpu).unwrap();
    refused(&[("QUERY.alpha", alpha)], &["alpha`", "F16, BF16, F32 or F64", "I64"]);
    let fp8 = zeros(&[2, 16]).to_dtype(DType::F8E4M3).unwrap();
    refused(&[("QUERY.lora_down.weight", fp8)], &["lora_down.weight`", "F16, BF16, F32 or F64", "F8_E4M3"]);
}

#[test]
fn other_methods_are_refused_by_their_names() {
    for (key, method) in [
        ("oft_blocks", "OFT"),
        ("boft_blocks", "BOFT"),
        ("glora_a", "GLoRA"),
        ("diff", "a full difference"),
        ("lora_B.bias", "a LoRA with a bias"),
        ("lora_sideways.weight", "another key"),
    ] {
        let key = format!("QUERY.{key}");
        refused(&[(&key, zeros(&[16, 16]))], &[&key.replace("QUERY", QUERY), method]);
    }
}

/// The error of a file that has these parts of [`QUERY`] alone.
fn parts_refused(parts: &[(&str, &[usize])], expected: &[&str]) {
    let tensors: HashMap<String, Tensor> =
        parts.iter().map(|(part, shape)| (format!("{QUERY}.{part}"), zeros(shape))).collect();
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("bad.safetensors");
    candle_core::safetensors::save(&tensors, &file).unwrap();
    let error = error_of_file(&file);
    assert_eq!(error.code(), ErrorCode::InvalidRequest, "{error}");
    for part in expected {
        assert!(error.to_string().contains(part), "{part} is not in: {error}");
    }
}

#[test]
fn parts_of_a_method_that_are_missing_or_do_not_fit_are_refused() {
    type Case<'a> = (&'a [(&'a str, &'a [usize])], &'a [&'a str]);
    let cases: [Case<'_>; 14] = [
        (&[("hada_w1_a", &[16, 2]), ("hada_w1_b", &[2, 16])], &["both factors of both weights", "none"]),
        (
            &[
                ("hada_w1_a", &[16, 2]),
                ("hada_w1_b", &[3, 16]),
                ("hada_w2_a", &[16, 2]),
                ("hada_w2_b", &[2, 16]),
            ],
            &["hada_w1_a", "[16, 3]", "[16, 2]"],
        ),
        (
            &[
                ("hada_w1_a", &[16, 2]),
                ("hada_w1_b", &[0, 16]),
                ("hada_w2_a", &[16, 2]),
                ("hada_w2_b", &[2, 16]),
            ],
            &["a rank of at least 1"],
        ),
        (&[("lokr_w1", &[4, 4])], &["both factors of a Kronecker product", "none"]),
        (&[("lokr_w2", &[4, 4]), ("lokr_w1_a", &[4, 2])], &["both factors of a Kronecker product"]),
        (&[("lokr_w1", &[4, 4]), ("lokr_w2", &[4, 5])], &["lokr_w2", "[4, 4]", "[4, 5]"]),
        (&[("lokr_w1", &[3, 4]), ("lokr_w2", &[4, 4])], &["sides that divide 16 and 16", "3 and 4"]),
        (&[("lokr_w1", &[0, 4]), ("lokr_w2", &[4, 4])], &["a matrix", "[0, 4]"]),
        (
            &[("lokr_w1", &[4, 4]), ("lokr_w2", &[4, 4]), ("lokr_w1_a", &[4, 2])],
            &["a factor, or what it is a product of", "both"],
        ),
        (
            &[("lokr_w1", &[4, 4]), ("lokr_w2", &[4, 4]), ("lora_up.weight", &[16, 2])],
            &["one method for its layer"],
        ),
        (
            &[
                ("lora_down.weight", &[2, 16]),
                ("lora_up.weight", &[16, 2]),
                ("lora_mid.weight", &[2, 2, 3, 3]),
            ],
            &["lora_mid", "[2, 2]", "[2, 2, 3, 3]"],
        ),
        (
            &[("lora_down.weight", &[2, 16]), ("lora_up.weight", &[16, 2]), ("dora_scale", &[8, 1])],
            &["dora_scale", "16 lengths", "[8, 1]"],
        ),
        (
            &[
                ("lora_down.weight", &[2, 16]),
                ("lora_up.weight", &[16, 2]),
                ("dora_scale", &[16, 1]),
                ("lora_magnitude_vector", &[16]),
            ],
            &["lengths once", "another name"],
        ),
        (&[("dora_scale", &[16, 1])], &["a matrix down to the rank", "none"]),
    ];
    for (parts, expected) in cases {
        parts_refused(parts, expected);
    }
}

/// The shapes that a tensor may have in a file that is not sound.
fn other_shapes(shape: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![vec![], vec![7], [shape, &[1]].concat(), [shape, &[3, 3]].concat()];
    all.extend((shape.len() > 1).then(|| shape[..shape.len() - 1].to_vec()));
    for side in 0..shape.len() {
        for size in [0, 1, 5, shape[side] * 2] {
            let mut other = shape.to_vec();
            other[side] = size;
            all.push(other);
        }
    }
    all
}

#[test]
fn a_part_of_another_shape_is_the_sender_s_error_whatever_the_method() {
    let folder = TempDir::new().unwrap();
    let model = model("text");
    let mut refused = 0;
    for name in ["locon", "loha", "lokr", "dora"] {
        let whole =
            candle_core::safetensors::load(data(&format!("loras/text/{name}.safetensors")), &Device::Cpu)
                .unwrap();
        // One layer of each kind, so that the file is small.
        let stems: Vec<&str> = whole.keys().filter_map(|key| key.strip_suffix(".alpha")).collect();
        for stem in stems.iter().take(6) {
            let parts = || whole.iter().filter(|(key, _)| key.starts_with(&format!("{stem}.")));
            for (key, tensor) in parts() {
                for (i, shape) in other_shapes(tensor.dims()).into_iter().enumerate() {
                    let mut tensors: HashMap<String, Tensor> =
                        parts().map(|(key, tensor)| (key.clone(), tensor.clone())).collect();
                    tensors.insert(key.clone(), zeros(&shape));
                    let file = folder.path().join(format!("{i}.safetensors"));
                    candle_core::safetensors::save(&tensors, &file).unwrap();
                    let lora = LoraSpec { name: "bad".into(), file, strength: 1.0 };
                    if let Err(error) = model.begin(&spec(vec![lora])) {
                        assert_eq!(error.code(), ErrorCode::InvalidRequest, "{key} {shape:?}: {error}");
                        refused += 1;
                    }
                }
            }
        }
    }
    assert!(refused > 100, "{refused}");
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
fn files_that_are_no_lora_are_refused_as_what_they_are() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("bad.safetensors");
    candle_core::safetensors::save(&HashMap::<String, Tensor>::new(), &file).unwrap();
    assert!(error_of_file(&file).to_string().contains("expected at least one layer"), "empty");
    let text = error_of_file(&data("single_file.sd1.safetensors")).to_string();
    assert!(text.contains("expected a key of a LoRA") && text.contains("a whole checkpoint"), "{text}");
    let text = error_of_file(&data("text/vae/diffusion_pytorch_model.safetensors")).to_string();
    assert!(text.contains("expected a key of a LoRA") && text.contains("an autoencoder"), "{text}");

    let whole = fs::read(data("loras/text/old.safetensors")).unwrap();
    let hostile = [&(1_u64 << 60).to_le_bytes()[..], b"{}"].concat();
    for (bytes, expected) in [
        (&whole[..whole.len() / 2], "it was cut short: its header tells of"),
        (&whole[..100], "it was cut short: its header tells of"),
        (&hostile, "header too large"),
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 33688\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html><title>Sign in</title></html>", "a web page"),
        (b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0", "a GGUF file"),
        (b"PK\x03\x04\x00\x00lora/data.pkl", "pickled by PyTorch"),
        (b"\x80\x02}q\x00X\x04", "pickled by PyTorch"),
        (b"Entry not found", "it is text"),
    ] {
        fs::write(&file, bytes).unwrap();
        // A part of a file that was written just now may become a whole one.
        let long_ago = SystemTime::now() - Duration::from_secs(60);
        File::options().write(true).open(&file).unwrap().set_modified(long_ago).unwrap();
        let error = error_of_file(&file);
        let text = error.to_string();
        assert_eq!(error.code(), ErrorCode::InvalidRequest, "{text}");
        assert!(text.starts_with("`loras[1].path`: bad: ") && text.contains(expected), "{text}");
        assert!(!text.contains(folder.path().to_str().unwrap()), "{text}");
    }
}

#[test]
fn a_file_that_is_gone_may_be_back_and_its_place_is_not_told() {
    let folder = TempDir::new().unwrap();
    let error = error_of_file(&folder.path().join("bad.safetensors"));
    assert!(
        matches!(&error, DiffusionError::LoraFile { source: LoraFileError::Unreadable(_), .. }),
        "{error}"
    );
    assert!(error.code().retryable() && !error.to_string().contains("/"), "{error}");
}

/// Writes over a file in place, as `cp` does: it is empty, then grows.
fn copy_over(file: &Path, bytes: &[u8]) {
    use std::io::Write;
    let mut file = File::create(file).unwrap();
    for chunk in bytes.chunks(4096) {
        file.write_all(chunk).unwrap();
    }
}

fn picture_with(model: &StableDiffusion, file: &Path) -> Result<image::RgbImage, DiffusionError> {
    let lora = LoraSpec { name: "style".into(), file: file.into(), strength: 1.0 };
    let mut job = model.begin(&spec(vec![lora]))?;
    model.advance(&mut [&mut job])?;
    model.finish(&job)
}

#[test]
fn a_lora_that_is_replaced_in_place_while_jobs_read_it_ends_none_but_those_with_an_error_to_try_again() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("style.safetensors");
    let versions =
        ["kohya", "peft"].map(|name| fs::read(data(&format!("loras/text/{name}.safetensors"))).unwrap());
    let model = model("text");
    let right = versions.clone().map(|bytes| {
        copy_over(&file, &bytes);
        picture_with(&model, &file).unwrap()
    });
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for version in versions.iter().cycle() {
                if ends.load(Ordering::Relaxed) {
                    break;
                }
                copy_over(&file, version);
            }
        });
        let mut failed = 0;
        for _ in 0..60 {
            match picture_with(&model, &file) {
                Ok(picture) => assert!(right.contains(&picture), "a picture of neither"),
                Err(error) => {
                    assert_eq!(error.code(), ErrorCode::Storage, "{error}");
                    failed += 1;
                }
            }
        }
        ends.store(true, Ordering::Relaxed);
        assert!(failed > 0, "the file was never met half written");
    });
    assert!(right.contains(&picture_with(&model, &file).unwrap()));
}

#[test]
fn another_file_of_the_same_size_and_time_is_read_again() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("style.safetensors");
    let old = SystemTime::now() - Duration::from_secs(3600);
    let put = |bytes: &[u8]| {
        let new = folder.path().join("new");
        fs::write(&new, bytes).unwrap();
        File::options().write(true).open(&new).unwrap().set_modified(old).unwrap();
        fs::rename(new, &file).unwrap();
    };
    let model = model("text");
    let mut bytes = fs::read(data("loras/text/kohya.safetensors")).unwrap();
    put(&bytes);
    let first = picture_with(&model, &file).unwrap();
    // The last bytes are values of a matrix.
    let last = bytes.len() - 64;
    bytes[last..].fill(0x3c);
    put(&bytes);
    assert_ne!(picture_with(&model, &file).unwrap(), first);
    assert_eq!(model.loras().reads(), 2);
}
