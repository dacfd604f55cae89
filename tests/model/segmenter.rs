//! Masks of what is pointed at, against those of the reference (`tools/parity/segmenter.py` wrote them down).

use candle_core::{DType, Tensor};
use sd_worker_rbee::{
    contract::{Capability, Job, JobSource, Limits, MaskSource, Operation, Pointing},
    segmenter::{Segmenter, SegmenterError},
};
use serde_json::{Value, json};

use crate::{
    segmenter_weights,
    support::{Golden, relative_l2},
};

/// Of the rows and columns of a small mask, and of a mask of more than 128, every so many are written down.
const EVERY: usize = 8;
/// Sizes of pictures: one that is taken as it is, one that is enlarged, one that is made smaller.
const SIZES: [(&str, (u32, u32)); 3] = [("same", (1024, 640)), ("small", (96, 72)), ("large", (1500, 2000))];

fn segmenter(kind: &str) -> Segmenter {
    let folder = tempfile::tempdir().unwrap();
    segmenter_weights::write(kind, folder.path());
    Segmenter::open(folder.path()).unwrap()
}

fn pointing(fields: Value) -> Pointing {
    let mut body = json!({"prompt": "a", "init_image": "AAAA"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let operation = Operation::parse(Some(Capability::Inpaint), body.to_string().as_bytes()).unwrap();
    match Job::new(operation, &Limits::default()).unwrap().source {
        JobSource::Inpaint { mask: MaskSource::Pointing(pointing), .. } => pointing,
        other => panic!("{other:?}"),
    }
}

/// What is pointed at in a picture of so many pixels.
fn cases((width, height): (u32, u32)) -> [(&'static str, Pointing); 4] {
    let at = |x: u32, y: u32| json!([x * width / 1000, y * height / 1000]);
    let around = json!([200 * width / 1000, 100 * height / 1000, 800 * width / 1000, 700 * height / 1000]);
    let points = json!([at(400, 300), at(700, 800), at(100, 900)]);
    [
        ("point", pointing(json!({"mask_points": [at(400, 300)]}))),
        ("points", pointing(json!({"mask_points": points, "mask_labels": [1, 1, 0]}))),
        ("box", pointing(json!({"mask_box": around}))),
        ("both", pointing(json!({"mask_points": [at(500, 500)], "mask_labels": [0], "mask_box": around}))),
    ]
}

/// Every so many of rows and columns, as `[rows, columns]` of bytes that are 0 or 1.
fn thinned(mask: &image::GrayImage, every: usize) -> Vec<u8> {
    let (width, height) = mask.dimensions();
    let rows = (0..height).step_by(every);
    rows.flat_map(|y| (0..width).step_by(every).map(move |x| mask.get_pixel(x, y).0[0] / 255)).collect()
}

fn compare(kind: &str, sizes: &[(&str, (u32, u32))], most_error: f64, most_pixels: f64) {
    let (segmenter, golden) = (segmenter(kind), Golden::read(&format!("segmenter/{kind}.safetensors")));
    for (size_name, size) in sizes {
        // The others have one colour: how PIL rounds shows nowhere then, and is compared alone.
        let picture = match *size_name {
            "same" => segmenter_weights::picture(size.0, size.1),
            _ => segmenter_weights::flat(size.0, size.1),
        };
        for (name, pointing) in cases(*size) {
            let case = format!("{size_name}.{name}");
            let logits = segmenter.logits(&picture, &pointing).unwrap();
            let rows = logits.low().chunks_exact(256).step_by(EVERY);
            let small: Vec<f32> = rows.flat_map(|row| row.iter().step_by(EVERY).copied()).collect();
            let small =
                Tensor::from_vec(small, (256 / EVERY, 256 / EVERY), &candle_core::Device::Cpu).unwrap();
            let error = relative_l2(&small, golden.get(&format!("{case}.small")));
            let every = if size.0.max(size.1) > 128 { EVERY } else { 1 };
            let ours = thinned(&logits.mask(), every);
            let theirs = golden.get(&format!("{case}.mask")).to_dtype(DType::U8).unwrap();
            let theirs: Vec<u8> = theirs.flatten_all().unwrap().to_vec1().unwrap();
            assert_eq!(ours.len(), theirs.len(), "{kind} {case}");
            let others = ours.iter().zip(&theirs).filter(|(ours, theirs)| ours != theirs).count();
            let others = others as f64 / ours.len() as f64;
            eprintln!("{kind} {case}: relative L2 {error:.1e}, {:.3} % of the pixels differ", others * 100.0);
            assert!(error < most_error, "{kind} {case}: {error}");
            assert!(others <= most_pixels, "{kind} {case}: {others}");
        }
    }
}

#[test]
fn masks_of_the_vision_transformer_are_those_of_segment_anything() {
    compare("vit", &SIZES, 2e-3, 0.001);
}

#[test]
fn masks_of_tiny_vit_are_those_of_mobile_sam() {
    compare("tiny", &SIZES[..1], 1e-2, 0.002);
}

#[test]
fn a_file_that_lacks_a_tensor_is_told_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    segmenter_weights::write("vit", folder.path());
    let file = folder.path().join("sam.safetensors");
    for missing in ["mask_decoder.iou_token.weight", "image_encoder.blocks.1.attn.rel_pos_h"] {
        let mut tensors = candle_core::safetensors::load(&file, &candle_core::Device::Cpu).unwrap();
        tensors.remove(missing).unwrap();
        candle_core::safetensors::save(&tensors, folder.path().join("sam.safetensors")).unwrap();
        let error = Segmenter::open(folder.path()).unwrap_err();
        assert!(
            matches!(error, SegmenterError::Weights { .. } | SegmenterError::Other { .. }),
            "{missing}: {error}"
        );
        assert!(error.to_string().contains(missing), "{missing}: {error}");
        segmenter_weights::write("vit", folder.path());
    }
}

#[test]
fn weights_that_are_not_finite_make_no_mask() {
    let folder = tempfile::tempdir().unwrap();
    segmenter_weights::write("vit", folder.path());
    let file = folder.path().join("sam.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &candle_core::Device::Cpu).unwrap();
    let bias = tensors.get_mut("image_encoder.neck.3.bias").unwrap();
    *bias = (bias.clone() * f64::NAN).unwrap();
    candle_core::safetensors::save(&tensors, &file).unwrap();
    let segmenter = Segmenter::open(folder.path()).unwrap();
    let picture = segmenter_weights::picture(64, 64);
    let error = segmenter.mask(&picture, &pointing(json!({"mask_points": [[30, 30]]}))).unwrap_err();
    assert!(matches!(error, SegmenterError::NonFinite), "{error}");
}
