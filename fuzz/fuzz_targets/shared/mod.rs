//! What the targets for files share: a copy of a small checkpoint in memory, safetensors files that can be changed, and
//! an input as a row of choices.
#![allow(dead_code)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A file under the tests' data.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/parity").join(name)
}

/// A folder in memory, where there is one.
pub fn folder() -> TempDir {
    let memory = PathBuf::from("/dev/shm");
    let folder = match memory.is_dir() {
        true => TempDir::new_in(memory),
        false => TempDir::new(),
    };
    folder.expect("a temporary folder")
}

/// A copy of a checkpoint.
pub struct Checkpoint {
    folder: TempDir,
    files: &'static [&'static str],
    originals: Vec<Vec<u8>>,
    changed: Mutex<Vec<usize>>,
}

impl Checkpoint {
    /// Of these files of a checkpoint of the tests.
    pub fn copy(name: &str, files: &'static [&'static str]) -> Self {
        let folder = folder();
        let copy = |name: &&str, from: &Path| {
            let bytes = fs::read(from.join(name)).expect("a file");
            let to = folder.path().join(name);
            fs::create_dir_all(to.parent().expect("a file in a folder")).expect("a folder");
            fs::write(to, &bytes).expect("a file");
            bytes
        };
        let originals = files.iter().map(|file| copy(file, &data(name))).collect();
        Self { folder, files, originals, changed: Mutex::default() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The undamaged file.
    pub fn original(&self, which: usize) -> &[u8] {
        &self.originals[which]
    }

    /// The file as it is now.
    pub fn current(&self, which: usize) -> Vec<u8> {
        fs::read(self.folder.path().join(self.files[which])).expect("a file")
    }

    /// Changes a file.
    pub fn write(&self, which: usize, bytes: &[u8]) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).push(which);
        fs::write(self.folder.path().join(self.files[which]), bytes).expect("a file");
    }

    /// All files as they were.
    pub fn restore(&self) {
        for which in self.changed.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            fs::write(self.folder.path().join(self.files[which]), &self.originals[which]).expect("a file");
        }
    }
}

/// An input as choices, a byte each.
pub struct Choices<'a>(pub &'a [u8]);

impl Choices<'_> {
    /// The next one; none at the end.
    pub fn next(&mut self) -> Option<usize> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(usize::from(*first))
    }
}

/// Where the data of a safetensors file begins.
pub fn data_of(file: &[u8]) -> &[u8] {
    let length: [u8; 8] = file[..8].try_into().expect("a length of eight bytes");
    &file[8 + u64::from_le_bytes(length) as usize..]
}

/// A tensor: type, shape, bytes.
pub struct Tensor {
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// A safetensors file that can be changed.
pub struct TensorFile {
    pub tensors: BTreeMap<String, Tensor>,
    pub notes: Option<Value>,
}

impl TensorFile {
    /// Of a sound file.
    pub fn parse(file: &[u8]) -> Option<Self> {
        let data = data_of(file);
        let header: Map<String, Value> = serde_json::from_slice(&file[8..file.len() - data.len()]).ok()?;
        let mut tensors = BTreeMap::new();
        let mut notes = None;
        for (name, info) in header {
            if name == "__metadata__" {
                notes = Some(info);
                continue;
            }
            let number = |value: &Value| value.as_u64().map(|number| number as usize);
            let offsets = [number(&info["data_offsets"][0])?, number(&info["data_offsets"][1])?];
            let shape = info["shape"].as_array()?.iter().filter_map(number).collect();
            let dtype = info["dtype"].as_str()?.to_owned();
            tensors.insert(name, Tensor { dtype, shape, bytes: data[offsets[0]..offsets[1]].to_vec() });
        }
        Some(Self { tensors, notes })
    }

    /// A tensor of small numbers in the place of one that was there.
    pub fn put(&mut self, name: &str, shape: &[usize]) {
        let count: usize = shape.iter().product();
        let value = |i: usize| (((i * 37) % 101) as f32 / 500.0 - 0.1).to_le_bytes();
        let bytes = (0..count).flat_map(value).collect();
        let tensor = Tensor { dtype: "F32".into(), shape: shape.to_vec(), bytes };
        self.tensors.insert(name.to_owned(), tensor);
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut header = Map::new();
        if let Some(notes) = &self.notes {
            header.insert("__metadata__".into(), notes.clone());
        }
        let mut data = Vec::new();
        for (name, tensor) in &self.tensors {
            let start = data.len();
            data.extend_from_slice(&tensor.bytes);
            header.insert(
                name.clone(),
                json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()] }),
            );
        }
        let header = Value::from(header).to_string();
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
    }
}
