//! Safetensors files that can be changed.
#![allow(dead_code)]

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Map, Value, json};

/// Where the data of a safetensors file begins.
pub fn data_of(file: &[u8]) -> &[u8] {
    let length: [u8; 8] = file[..8].try_into().expect("a length of eight bytes");
    &file[8 + u64::from_le_bytes(length) as usize..]
}

/// A tensor: type, shape, bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// A safetensors file that can be changed.
#[derive(Debug, Clone, Default)]
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

    /// Of a file.
    pub fn read(path: &Path) -> Self {
        Self::parse(&fs::read(path).expect("a file")).expect("a safetensors file")
    }

    /// Writes it.
    pub fn write(&self, path: &Path) {
        fs::write(path, self.bytes()).expect("a file");
    }

    /// The tensors whose names begin with `prefix`, with `new` in its place.
    pub fn part(&self, prefix: &str, new: &str) -> Self {
        let of = |(name, tensor): (&String, &Tensor)| {
            Some((format!("{new}{}", name.strip_prefix(prefix)?), tensor.clone()))
        };
        Self { tensors: self.tensors.iter().filter_map(of).collect(), notes: None }
    }

    /// The tensors of a network by its makers' names under a prefix, as `tools/parity/originals.py` has written them down of
    /// diffusers' converters in `pairs`.
    pub fn original(&self, pairs: &Path, network: &str, prefix: &str) -> Self {
        type Pairs = BTreeMap<String, (String, Vec<(usize, usize)>, usize)>;
        let pairs: BTreeMap<String, Pairs> =
            serde_json::from_slice(&fs::read(pairs).expect("a file")).expect("pairs of names");
        let mut out = Self::default();
        for (name, tensor) in &self.tensors {
            let (original, parts, of) =
                pairs[network].get(name).unwrap_or_else(|| panic!("no pair of {name}"));
            let count = parts.iter().map(|(_, count)| count).sum::<usize>();
            let unit = tensor.bytes.len() / count;
            let whole = out.tensors.entry(format!("{prefix}{original}")).or_insert_with(|| {
                let mut shape = tensor.shape.clone();
                shape[0] = shape[0] / count * of;
                // Attention of the autoencoder is convolutions there.
                if original.contains("attn_1.") && original.ends_with(".weight") && shape.len() == 2 {
                    shape.extend([1, 1]);
                }
                Tensor { dtype: tensor.dtype.clone(), shape, bytes: vec![0; unit * of] }
            });
            let mut from = 0;
            for (first, count) in parts {
                let (to, length) = (first * unit, count * unit);
                whole.bytes[to..to + length].copy_from_slice(&tensor.bytes[from..from + length]);
                from += length;
            }
        }
        out
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
