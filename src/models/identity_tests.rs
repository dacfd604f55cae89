//! Models that are told apart, and those that are the same wherever they are.

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device};
use tempfile::TempDir;

use super::*;
use crate::models::ModelSource;

const MODEL: &str = "models/tiny-shapes";
const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

fn of(source: &str) -> ModelIdentity {
    let source: ModelSource = format!("m={source}").parse().unwrap();
    ModelIdentity::of(&source, &Device::Cpu, DType::F32.into()).unwrap()
}

fn of_folder(folder: &Path) -> ModelIdentity {
    of(folder.to_str().unwrap())
}

/// A copy of the model elsewhere.
fn copy() -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("elsewhere");
    copy_folder(Path::new(MODEL), &folder);
    (root, folder)
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy_folder(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// Changes bytes of a file.
fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_model_is_the_same_wherever_its_folder_is() {
    let (_root, folder) = copy();
    let (here, there) = (of(MODEL), of_folder(&folder));
    assert_eq!(here, there);
    assert_eq!(here.differences(&there), Vec::<String>::new());
    // What no picture goes through.
    fs::write(folder.join("README.md"), "another").unwrap();
    assert_eq!(here, of_folder(&folder));
}

#[test]
fn weights_of_the_same_shapes_are_told_apart_and_named() {
    for (file, name) in [
        (UNET, "the weights of `unet`"),
        ("vae/diffusion_pytorch_model.safetensors", "the weights of `vae`"),
        ("text_encoder/model.safetensors", "the weights of `text_encoder`"),
    ] {
        let (_root, folder) = copy();
        // As training does: a little of every number.
        change(&folder.join(file), |bytes| {
            let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            bytes[header..].iter_mut().step_by(4).for_each(|byte| *byte ^= 1);
        });
        assert_eq!(of_folder(&folder).differences(&of(MODEL)), [name]);
    }
}

#[test]
fn configurations_schedulers_and_tokenizers_are_told_apart_and_named() {
    for (file, name) in [
        ("unet/config.json", "the configuration of `unet`"),
        ("vae/config.json", "the configuration of `vae`"),
        ("text_encoder/config.json", "the configuration of `text_encoder`"),
        ("scheduler/scheduler_config.json", "the configuration of `scheduler`"),
        ("tokenizer/tokenizer_config.json", "the tokenizer `tokenizer`"),
        ("model_index.json", "the pipeline's index"),
    ] {
        let (_root, folder) = copy();
        change(&folder.join(file), |bytes| bytes.push(b'\n'));
        assert_eq!(of_folder(&folder).differences(&of(MODEL)), [name]);
    }
}

#[cfg(unix)]
#[test]
fn the_hubs_name_of_a_file_tells_apart_what_was_not_looked_at() {
    let in_cache = |name: &str, folder: &Path| {
        let blobs = folder.join("blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::rename(folder.join(UNET), blobs.join(name)).unwrap();
        std::os::unix::fs::symlink(blobs.join(name), folder.join(UNET)).unwrap();
        of_folder(folder)
    };
    let (one, other) = (copy(), copy());
    let (one, other) = (in_cache(&"a".repeat(64), &one.1), in_cache(&"b".repeat(64), &other.1));
    assert_eq!(one.differences(&other), ["the weights of `unet`"]);
    // A folder of another kind has no such names.
    let none = Vec::<String>::new();
    assert_eq!((one.differences(&of(MODEL)), of(MODEL).differences(&other)), (none.clone(), none));
}

#[test]
fn a_simulation_is_its_size_and_differs_from_a_model_in_all_parts() {
    assert_eq!(of("sim://?size=64&step_ms=5"), of("sim://?size=64&step_ms=40&memory=1KiB"));
    assert_eq!(of("sim://?size=64").differences(&of("sim://?size=128")), ["the simulation"]);
    let differences = of("sim://").differences(&of(MODEL));
    assert_eq!(differences[0], "the simulation");
    assert_eq!(differences.len(), 1 + of(MODEL).parts.len());
}

#[test]
fn another_precision_device_or_program_is_named_with_both() {
    let here = of("sim://");
    let mut before = here.clone();
    before.precision = "text=f16,unet=f16,vae=f32".into();
    before.arithmetic = "cuda 9.0 NVIDIA H100".into();
    before.build = "x".repeat(500);
    let differences = here.differences(&before);
    assert_eq!(differences.len(), 3);
    assert!(differences[0].starts_with("the program (`xxx") && differences[0].len() < 250, "{differences:?}");
    let arithmetic = format!("the arithmetic (`cuda 9.0 NVIDIA H100`, here `{}`)", here.arithmetic);
    assert_eq!(differences[1], arithmetic);
    assert!(differences[2].contains("vae=f32") && differences[2].contains("vae=f32`, here `text=f32"));
}
