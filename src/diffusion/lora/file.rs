//! A file of a LoRA or one of its kin: its keys, sorted by the layer that they name.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::{
    alphas::Alphas,
    content::Content,
    delta::Factors,
    kinds,
    magnitude::{Axis, Magnitude},
    methods,
    names::Rows,
    parts::{Method, Part, Parts},
    word::{self, AddedWord, TakesWords},
};
use crate::diffusion::DiffusionError;

/// Parts of keys of other methods, which are not done here. The first that is found counts.
const OTHERS: [(&str, &str); 8] = [
    ("boft_", "BOFT"),
    ("oft_", "OFT"),
    ("glora_", "GLoRA"),
    ("ia3", "IA3"),
    (".diff", "a full difference"),
    (".w_norm", "a change of norms"),
    (".b_norm", "a change of norms"),
    (".lora_B.bias", "a LoRA with a bias"),
];

/// A file whose every key is of a LoRA, a LoHa or a LoKr.
pub struct LoraFile {
    file: Content,
    name: String,
    /// Which of the job's LoRAs it is, for errors.
    index: usize,
    layers: BTreeMap<String, Parts>,
    /// Keys of textual inversions that come with it, by the word's name.
    words: BTreeMap<String, Vec<String>>,
    alphas: Alphas,
}

/// What a file adds to one layer of a model.
pub struct Change {
    /// What is added to the weight.
    pub factors: Factors,
    /// Times this: alpha by rank.
    pub scale: f64,
    /// The lengths that the weight then has.
    pub magnitude: Option<Magnitude>,
}

impl LoraFile {
    /// Sorts the keys of a file.
    ///
    /// # Errors
    /// A key that is of no LoRA, or of another method; a file without any.
    pub fn new(file: Content, name: &str, index: usize) -> Result<Self, DiffusionError> {
        let alphas = Alphas::read(file.note(Alphas::NOTE));
        let mut lora = Self {
            file,
            name: name.to_owned(),
            index,
            layers: BTreeMap::new(),
            words: BTreeMap::new(),
            alphas,
        };
        let mut keys = lora.file.names();
        keys.sort();
        for key in keys {
            lora.sort_in(key)?;
        }
        match lora.layers.is_empty() && lora.words.is_empty() {
            true => Err(lora.wrong("*.lora_down.weight", "at least one layer", "none")),
            false => Ok(lora),
        }
    }

    /// What the file is, if its names tell: of no LoRA, or for a family.
    pub fn kind(&self) -> Option<&'static str> {
        let names = self.file.names();
        kinds::told_by(names.iter().map(String::as_str), |name| self.file.shape(name))
    }

    fn with_kind(&self, found: &str) -> String {
        match self.kind() {
            Some(kind) => format!("{found}: the file is {kind}"),
            None => found.to_owned(),
        }
    }

    fn sort_in(&mut self, key: String) -> Result<(), DiffusionError> {
        if let Some((name, _)) = word::bundled(&key) {
            self.words.entry(name.to_owned()).or_default().push(key);
            return Ok(());
        }
        let Some((stem, part)) = Parts::of(&key) else {
            let other = OTHERS.iter().find(|(part, _)| key.contains(part));
            let found = other.map_or_else(|| self.with_kind("another key"), |(_, method)| (*method).into());
            let expected = "a key of a LoRA, LoHa or LoKr (lora_down, lora_A, hada_w1_a, lokr_w1, alpha)";
            return Err(self.wrong(&key, expected, &found));
        };
        let parts = self.layers.entry(stem).or_default();
        match parts.insert(part, key.clone()) {
            Some(first) => {
                Err(self.wrong(&key, "one matrix of its kind for its layer", &format!("`{first}` too")))
            }
            None => Ok(()),
        }
    }

    /// The layers by their names in the file.
    pub fn layers(&self) -> impl Iterator<Item = (&str, &Parts)> {
        self.layers.iter().map(|(stem, parts)| (stem.as_str(), parts))
    }

    /// The textual inversions that come with it, for these text encoders.
    ///
    /// # Errors
    /// One that is for others.
    pub fn words(&self, encoders: &[TakesWords]) -> Result<Vec<AddedWord>, DiffusionError> {
        let words = self.words.iter().map(|(name, keys)| {
            let parts = keys.iter().filter_map(|key| Some((word::bundled(key)?.1, key.as_str())));
            let keys: Vec<(&str, &str)> = parts.collect();
            let wrong = |key: &str, expected: &str, found: &str| self.wrong(key, expected, found);
            AddedWord::read(name, &self.file, &keys, encoders, &wrong)
        });
        words.collect()
    }

    /// What is added to a layer of a component with this weight, in its type and on its device. `rows`: which of the file's
    /// rows the layer has, if the file's layer is several of the model's.
    ///
    /// # Errors
    /// A part that is missing, is too much, or does not fit the layer.
    pub fn change(
        &self,
        (stem, parts): (&str, &Parts),
        component: &str,
        weight: &Tensor,
        rows: Option<&Rows>,
    ) -> Result<Change, DiffusionError> {
        let layer =
            LayerFile { file: self, parts, weight, outputs: rows.map_or(weight.dims()[0], |rows| rows.of) };
        let (method, other) = parts.method();
        if let Some(other) = other {
            return Err(self.wrong(other, "one method for its layer", &format!("`{}` too", parts.a_key())));
        }
        let (factors, rank) = match method {
            Method::LowRank => methods::low_rank(&layer)?,
            Method::Hadamard => methods::hadamard(&layer)?,
            Method::Kronecker => methods::kronecker(&layer)?,
        };
        let scale = match rank {
            Some(rank) => self.scale((stem, parts), component, rank)?,
            None => 1.0,
        };
        let factors = match rows {
            Some(rows) => factors.rows(rows)?,
            None => factors,
        };
        let magnitude = layer.magnitude(&factors, rows)?;
        Ok(Change { factors, scale, magnitude })
    }

    /// Alpha by rank; 1 where no alpha is said.
    fn scale(
        &self,
        (stem, parts): (&str, &Parts),
        component: &str,
        rank: usize,
    ) -> Result<f64, DiffusionError> {
        let Some(key) = parts.get(Part::Alpha) else {
            return Ok(self.alphas.scale(component, stem, rank));
        };
        let shape = self.file.shape(key).unwrap_or_default();
        if shape.iter().product::<usize>() != 1 {
            return Err(self.wrong(key, "one number", &format!("{shape:?}")));
        }
        let alpha = self.tensor(key, &Device::Cpu)?.to_dtype(DType::F64)?;
        Ok(alpha.flatten_all()?.to_vec1::<f64>()?[0] / rank as f64)
    }

    /// A tensor as it is in the file. It is there: its key is of this file.
    ///
    /// # Errors
    /// When it is of no floating point type that is read, or has a value that is not finite.
    fn tensor(&self, key: &str, device: &Device) -> Result<Tensor, DiffusionError> {
        self.file.finite(key, device, &|expected, found| self.wrong(key, expected, found))
    }

    /// The error of a key.
    pub fn wrong(&self, key: &str, expected: &str, found: &str) -> DiffusionError {
        DiffusionError::Lora {
            index: self.index,
            file: self.name.clone(),
            key: key.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        }
    }
}

/// The shape of a layer as its file has it.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Rows of the weight.
    pub outputs: usize,
    /// Columns of it.
    pub inputs: usize,
    /// Empty, or both sides of a convolution's kernel.
    pub kernel: Vec<usize>,
}

impl Shape {
    /// Values of a row.
    pub fn area(&self) -> usize {
        self.inputs * self.kernel.iter().product::<usize>()
    }

    /// That of the weight.
    pub fn whole(&self) -> Vec<usize> {
        self.down(self.outputs)
    }

    /// That of a matrix from what goes in to a rank.
    pub fn down(&self, rank: usize) -> Vec<usize> {
        [&[rank, self.inputs], self.kernel.as_slice()].concat()
    }

    /// That of a matrix from a rank to what comes out, for each pixel alone.
    pub fn up(&self, rank: usize) -> Vec<usize> {
        [&[self.outputs, rank], vec![1; self.kernel.len()].as_slice()].concat()
    }
}

/// What a file has for one layer, and the weight that it is for.
pub struct LayerFile<'a> {
    file: &'a LoraFile,
    parts: &'a Parts,
    weight: &'a Tensor,
    /// Rows of the file's layer.
    outputs: usize,
}

impl LayerFile<'_> {
    /// Of the whole layer, as the file has it.
    pub fn shape(&self) -> Shape {
        let dims = self.weight.dims();
        Shape { outputs: self.outputs, inputs: dims[1], kernel: dims[2..].to_vec() }
    }

    /// The type that what is added is kept in: the weight's, or f32 where that holds no activations.
    pub fn dtype(&self) -> DType {
        match self.weight.dtype() {
            dtype @ (DType::F16 | DType::BF16 | DType::F32) => dtype,
            _ => DType::F32,
        }
    }

    /// The key of a part.
    pub fn key(&self, part: Part) -> Option<&str> {
        self.parts.get(part)
    }

    /// Whether a part is there.
    pub fn has(&self, part: Part) -> bool {
        self.key(part).is_some()
    }

    /// The key of a part that must be there; `what` it is called where it is not.
    pub fn need(&self, part: Part, what: &str) -> Result<&str, DiffusionError> {
        self.key(part).ok_or_else(|| self.wrong(self.a_key(), what, "none"))
    }

    /// A side of a tensor, which is a rank.
    pub fn rank_of(&self, key: &str, side: usize) -> Result<usize, DiffusionError> {
        match self.file.file.shape(key).and_then(|shape| shape.get(side)).copied().unwrap_or(0) {
            0 => Err(self.wrong(key, "a rank of at least 1", "0")),
            rank => Ok(rank),
        }
    }

    /// Both sides of a matrix that has values.
    pub fn two_sides(&self, key: &str) -> Result<[usize; 2], DiffusionError> {
        match self.file.file.shape(key) {
            Some([a, b]) if *a > 0 && *b > 0 => Ok([*a, *b]),
            shape => Err(self.wrong(key, "a matrix", &format!("{:?}", shape.unwrap_or_default()))),
        }
    }

    /// A part of this shape, as the weight is kept. Kernels of one pixel may be missing or there, whatever the layer has.
    pub fn take(&self, part: Part, shape: &[usize]) -> Result<Tensor, DiffusionError> {
        self.checked(part, shape, |found| trimmed(found) == trimmed(shape))
            .and_then(|tensor| Ok(tensor.to_dtype(self.dtype())?.reshape(shape)?))
    }

    /// A part of this shape, in f32. What is behind its first side may be in one row.
    pub fn wide(&self, part: Part, shape: &[usize]) -> Result<Tensor, DiffusionError> {
        let flat = |shape: &[usize]| (shape.first().copied(), shape.iter().product::<usize>());
        self.checked(part, shape, |found| flat(found) == flat(shape))
            .and_then(|tensor| Ok(tensor.to_dtype(DType::F32)?.reshape(shape)?))
    }

    fn checked(
        &self,
        part: Part,
        expected: &[usize],
        fits: impl Fn(&[usize]) -> bool,
    ) -> Result<Tensor, DiffusionError> {
        let key = self.need(part, "all parts of its method")?;
        let found = self.file.file.shape(key).unwrap_or_default();
        match fits(found) {
            true => self.file.tensor(key, self.weight.device()),
            false => Err(self.wrong(key, &format!("shape {expected:?}"), &format!("{found:?}"))),
        }
    }

    /// The lengths that the file has, for the rows that the layer has of them.
    fn magnitude(&self, factors: &Factors, rows: Option<&Rows>) -> Result<Option<Magnitude>, DiffusionError> {
        let shape = self.shape();
        let (key, axis) = match (self.key(Part::Magnitude), self.key(Part::DoraScale)) {
            (None, None) => return Ok(None),
            (Some(_), Some(key)) => return Err(self.wrong(key, "lengths once", "them by another name too")),
            (Some(key), None) => (key, Axis::Outputs),
            (None, Some(key)) => match self.file.file.shape(key).unwrap_or_default() {
                [1, inputs, ..] if *inputs == shape.inputs => (key, Axis::Inputs),
                _ => (key, Axis::Outputs),
            },
        };
        let expected = if axis == Axis::Outputs { shape.outputs } else { shape.inputs };
        let found = self.file.file.shape(key).unwrap_or_default();
        if found.iter().product::<usize>() != expected {
            let expected = format!("{} lengths, or {}", shape.outputs, shape.inputs);
            return Err(self.wrong(key, &expected, &format!("{found:?}")));
        }
        let mut lengths = self.file.tensor(key, self.weight.device())?.flatten_all()?;
        if let Some(rows) = rows {
            if axis == Axis::Inputs {
                let found = "lengths of the columns of a layer that is several here";
                return Err(self.wrong(key, "lengths of rows", found));
            }
            lengths = rows.of_tensor(&lengths)?;
        }
        Ok(Some(Magnitude::new(axis, &lengths, self.weight, factors)?))
    }

    /// The first key of the layer, to name it in an error.
    pub fn a_key(&self) -> &str {
        self.parts.a_key()
    }

    /// The error of a key.
    pub fn wrong(&self, key: &str, expected: &str, found: &str) -> DiffusionError {
        self.file.wrong(key, expected, found)
    }
}

/// Two dimensions, and more only if a kernel is larger than a pixel.
fn trimmed(shape: &[usize]) -> &[usize] {
    match shape {
        [_, _, 1, 1] => &shape[..2],
        _ => shape,
    }
}
