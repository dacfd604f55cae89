//! A component's weights: every tensor is asked for by diffusers' name and its shape, wherever it is kept.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use candle_core::{DType, Device, Tensor};

use super::{
    files::ComponentFiles,
    mapped::MappedFile,
    names::{Cut, Names},
};
use crate::diffusion::{DiffusionError, precision::computed_in};

/// The mapped files of one component. On the CPU a tensor of the type that is kept is used where it is mapped; others are
/// copied out, widened or narrowed.
pub struct Weights {
    files: ComponentFiles,
    /// None: the files use diffusers' names.
    names: Option<Arc<dyn Names>>,
    device: Device,
    dtype: DType,
    bytes: AtomicU64,
}

impl Weights {
    /// Of files with diffusers' names, or with others.
    pub(super) fn new(
        files: ComponentFiles,
        names: Option<Arc<dyn Names>>,
        device: &Device,
        dtype: DType,
    ) -> Self {
        Self { files, names, device: device.clone(), dtype, bytes: AtomicU64::new(0) }
    }

    /// The whole component, to ask for tensors by their full names.
    pub fn root(&self) -> Scope<'_> {
        Scope { weights: self, prefix: String::new() }
    }

    /// Bytes of the tensors taken so far, in the types that they are kept in.
    pub fn bytes_taken(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Numbers in all tensors of the component, taken or not.
    pub fn elements(&self) -> u64 {
        let of_component = |key: &str| self.names.as_ref().is_none_or(|names| names.has(key));
        self.files.elements(&of_component)
    }

    /// Where a tensor is: the file, its name there, and which part of it.
    fn find(&self, key: &str) -> (&MappedFile, String, Cut) {
        match &self.names {
            None => (self.files.holder(key), key.to_owned(), Cut::Whole),
            Some(names) => {
                let file = self.files.holder(key);
                let (key, cut) = names.original(key, &|key| file.has(key));
                (file, key, cut)
            }
        }
    }

    fn take(&self, key: &str, shape: &[usize]) -> Result<Tensor, DiffusionError> {
        let (file, key, cut) = self.find(key);
        let expected = cut.shape_in_file(shape, file.shape(&key));
        if file.shape(&key).is_some_and(|found| found != expected) {
            return Err(file.wrong_shape(&key, &expected));
        }
        let tensor = file.weight(&key, &expected, cut.rows(shape), self.kept(shape), &self.device)?;
        let tensor = cut.of(&tensor, shape)?;
        self.bytes
            .fetch_add((tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64, Ordering::Relaxed);
        Ok(tensor)
    }

    /// Norms and biases are small: they are kept in the type that is computed in.
    fn kept(&self, shape: &[usize]) -> DType {
        if shape.len() > 1 { self.dtype } else { computed_in(self.dtype, &self.device) }
    }
}

/// A place in the names of a component: `down_blocks.0.resnets.1`.
#[derive(Clone)]
pub struct Scope<'a> {
    weights: &'a Weights,
    prefix: String,
}

impl Scope<'_> {
    /// The place below.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { weights: self.weights, prefix: self.key(name) }
    }

    /// The tensor of that name here, checked against `shape`. One of two dimensions or more is kept in the type that
    /// was asked for, one of a single dimension in the type that is computed in.
    ///
    /// # Errors
    /// When it is missing, of another shape or no floating point number; named as it is in the file.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, DiffusionError> {
        self.weights.take(&self.key(name), shape)
    }

    /// Whether there is a tensor of that name here.
    pub fn has(&self, name: &str) -> bool {
        let (file, key, _) = self.weights.find(&self.key(name));
        file.has(&key)
    }

    /// The name of the place, empty at the root.
    pub fn place(&self) -> &str {
        &self.prefix
    }

    /// The type that what is read here is computed in.
    pub fn computed_in(&self) -> DType {
        computed_in(self.weights.dtype, &self.weights.device)
    }

    fn key(&self, name: impl std::fmt::Display) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }
}
