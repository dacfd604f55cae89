//! A checkpoint with one damaged file: it is loaded, or refused with an error; it never panics and never takes memory
//! by what a file says.
//!
//! The first byte of the input names the file, the others are its content. Of a safetensors file they are the
//! beginning, or (with the highest bit of the first byte) all.
#![no_main]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use libfuzzer_sys::fuzz_target;
use sd_worker_rbee::diffusion::{DType, Device, StableDiffusion};
use tempfile::TempDir;

/// In the order of `seeds`.
const FILES: [&str; 10] = [
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
];

struct Checkpoint {
    folder: TempDir,
    originals: Vec<Vec<u8>>,
}

static CHECKPOINT: LazyLock<Checkpoint> = LazyLock::new(|| {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/parity/text");
    let memory = PathBuf::from("/dev/shm");
    let folder = match memory.is_dir() {
        true => TempDir::new_in(memory),
        false => TempDir::new(),
    };
    let folder = folder.expect("a temporary folder");
    let originals = FILES.map(|name| {
        let bytes = fs::read(from.join(name)).expect(name);
        let to = folder.path().join(name);
        fs::create_dir_all(to.parent().expect("a file in a folder")).expect("a folder");
        fs::write(to, &bytes).expect("a file");
        bytes
    });
    let loaded = StableDiffusion::load(folder.path(), &Device::Cpu, DType::F32);
    assert!(loaded.is_ok(), "the undamaged checkpoint: {}", loaded.err().map_or(String::new(), |e| e.to_string()));
    Checkpoint { folder, originals: originals.into() }
});

/// Where the data of a safetensors file begins.
fn data_of(file: &[u8]) -> &[u8] {
    let length: [u8; 8] = file[..8].try_into().expect("a length of eight bytes");
    &file[8 + u64::from_le_bytes(length) as usize..]
}

fuzz_target!(|input: &[u8]| {
    let Some((first, content)) = input.split_first() else {
        return;
    };
    let which = usize::from(first & 0x7f) % FILES.len();
    let original = &CHECKPOINT.originals[which];
    let path = CHECKPOINT.folder.path().join(FILES[which]);
    let keeps_data = FILES[which].ends_with(".safetensors") && first & 0x80 == 0;
    let damaged = match keeps_data {
        true => [content, data_of(original)].concat(),
        false => content.to_vec(),
    };
    fs::write(&path, damaged).expect("a file");
    if let Err(error) = StableDiffusion::load(CHECKPOINT.folder.path(), &Device::Cpu, DType::F32) {
        assert!(!error.to_string().is_empty());
    }
    fs::write(&path, original).expect("a file");
});
