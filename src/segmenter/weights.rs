//! A segmenter's weights: the one `.safetensors` file of a folder, and what its tensors say of the encoder.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use super::{
    SegmenterError,
    encoder::{Kind, Vit},
};

/// The largest file that is read, in bytes: that of ViT-H has 2.6 GB.
const MAX_FILE: u64 = 4 << 30;
/// The first tensor of the original's encoder.
const VIT: &str = "image_encoder.patch_embed.proj.weight";
/// The first tensor of MobileSAM's encoder.
const TINY: &str = "image_encoder.patch_embed.seq.0.c.weight";
/// The first tensor of the original's encoder as transformers names it.
const OF_TRANSFORMERS: &str = "vision_encoder.patch_embed.projection.weight";

/// The tensors of a file.
pub struct Weights {
    path: PathBuf,
    tensors: HashMap<String, Tensor>,
}

impl Weights {
    /// Reads the file of a folder.
    ///
    /// # Errors
    /// Why there is none, or which it is not.
    pub fn read(folder: &Path) -> Result<Self, SegmenterError> {
        let path = find(folder)?;
        let unreadable = |source| SegmenterError::Read { path: path.clone(), source };
        let bytes = std::fs::metadata(&path).map_err(unreadable)?.len();
        if bytes > MAX_FILE {
            return Err(SegmenterError::TooLarge { path, bytes, limit: MAX_FILE });
        }
        let file = std::fs::read(&path).map_err(unreadable)?;
        let tensors = candle_core::safetensors::load_buffer(&file, &Device::Cpu)
            .map_err(|source| SegmenterError::Weights { path: path.clone(), source: Box::new(source) })?;
        Ok(Self { path, tensors })
    }

    /// Bytes that its numbers take in f32.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|tensor| tensor.elem_count() as u64 * 4).sum()
    }

    /// Which encoder it has.
    ///
    /// # Errors
    /// [`SegmenterError::Other`] when it has none.
    pub fn kind(&self) -> Result<Kind, SegmenterError> {
        if self.tensors.contains_key(TINY) {
            return Ok(Kind::Tiny);
        }
        if self.tensors.contains_key(VIT) {
            return self.vit().map(Kind::Vit);
        }
        Err(self.other(if self.tensors.contains_key(OF_TRANSFORMERS) {
            "it is in the layout of transformers; that of the original is read, with tensors named `image_encoder.`".to_owned()
        } else {
            format!("it is no Segment Anything: it has neither `{VIT}` nor `{TINY}`")
        }))
    }

    /// The networks that are built of it. What they do not use is let go.
    ///
    /// # Errors
    /// [`SegmenterError::Weights`] with the tensor that is missing, or of another shape.
    pub fn build<T>(
        self,
        networks: impl FnOnce(VarBuilder) -> candle_core::Result<T>,
    ) -> Result<T, SegmenterError> {
        let Self { path, tensors } = self;
        networks(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))
            .map_err(|source| SegmenterError::Weights { path, source: Box::new(source) })
    }

    /// ViT-B, ViT-L and ViT-H differ in width, depth, heads, and in the blocks that attend to the whole picture: all of it shows
    /// in the shapes.
    fn vit(&self) -> Result<Vit, SegmenterError> {
        let of = |name: &str| self.tensors.get(name).map(Tensor::dims).unwrap_or_default();
        let [width, ..] = *of(VIT) else { return Err(self.other(format!("`{VIT}` has no width"))) };
        let (mut vit, mut depth) = (Vit { width, depth: 0, heads: 0, global: vec![] }, 0);
        while self.tensors.contains_key(&format!("image_encoder.blocks.{depth}.norm1.weight")) {
            let name = format!("image_encoder.blocks.{depth}.attn.rel_pos_h");
            match *of(&name) {
                [Vit::GLOBAL_POSITIONS, head] if head > 0 => {
                    vit.global.push(depth);
                    vit.heads = width / head;
                }
                [Vit::WINDOW_POSITIONS, head] if head > 0 => vit.heads = width / head,
                _ => return Err(self.other(format!("`{name}` is missing or of another shape"))),
            }
            depth += 1;
        }
        if depth == 0 || vit.heads == 0 || width % vit.heads != 0 {
            return Err(self.other("its encoder has no blocks that fit together".to_owned()));
        }
        vit.depth = depth;
        Ok(vit)
    }

    fn other(&self, reason: String) -> SegmenterError {
        SegmenterError::Other { path: self.path.clone(), reason }
    }
}

fn find(folder: &Path) -> Result<PathBuf, SegmenterError> {
    let unreadable = |source| SegmenterError::Read { path: folder.to_owned(), source };
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            found.push(path);
        }
    }
    let folder = folder.to_owned();
    match <[PathBuf; 1]>::try_from(found) {
        Ok([path]) => Ok(path),
        Err(none) if none.is_empty() => Err(SegmenterError::NoWeights { folder }),
        Err(several) => {
            let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let mut names: Vec<String> = several.iter().map(name).collect();
            names.sort_unstable();
            Err(SegmenterError::Several { folder, names })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a folder with these files, each of which has one tensor of this name.
    fn said(files: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (file, tensor) in files {
            let zeros = Tensor::zeros((8, 3, 16, 16), DType::F32, &Device::Cpu).unwrap();
            let tensors = HashMap::from([((*tensor).to_owned(), zeros)]);
            candle_core::safetensors::save(&tensors, folder.path().join(file)).unwrap();
        }
        Weights::read(folder.path()).and_then(|weights| weights.kind()).err().unwrap().to_string()
    }

    #[test]
    fn a_folder_that_is_no_segmenter_is_told_by_what_it_lacks() {
        for (files, says) in [
            (&[][..], "there is no .safetensors file in it; `sam_vit_b_01ec64.safetensors`"),
            (&[("sam.pth", VIT)], "pickled .pth files are not read"),
            (&[("b.safetensors", VIT), ("a.safetensors", VIT)], "a.safetensors, b.safetensors; leave one"),
            (&[("unet.safetensors", "conv_in.weight")], "it is no Segment Anything"),
            (&[("hf.safetensors", OF_TRANSFORMERS)], "in the layout of transformers"),
            (&[("cut.safetensors", VIT)], "its encoder has no blocks"),
        ] {
            let said = said(files);
            assert!(said.contains(says), "{files:?}: {said}");
        }
        let missing = Weights::read(Path::new("no/such/folder")).err().unwrap().to_string();
        assert!(missing.starts_with("no/such/folder: "), "{missing}");
    }

    #[test]
    fn a_damaged_file_is_told_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        for damage in [&b""[..], b"nonsense", &u64::MAX.to_le_bytes(), &[0xff; 64]] {
            std::fs::write(folder.path().join("sam.safetensors"), damage).unwrap();
            let error = Weights::read(folder.path()).err().unwrap();
            assert!(matches!(error, SegmenterError::Weights { .. }), "{error}");
            assert!(error.to_string().contains("sam.safetensors: "), "{error}");
        }
    }
}
