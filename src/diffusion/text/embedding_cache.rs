//! The text embeddings of the last prompts, so that the same prompt with another seed is not encoded again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use candle_core::Tensor;

use crate::contract::PromptSyntax;

/// Bytes of embeddings kept per model: some 280 prompts of Stable Diffusion 1 in f32.
const LIMIT: usize = 64 << 20;

/// What embeddings depend on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EmbeddingKey {
    text: String,
    syntax: PromptSyntax,
    clip_skip: usize,
    encoders: String,
}

impl EmbeddingKey {
    /// `encoders` names the weights that encode, for example the LoRAs in them with their strengths; the text encoders
    /// of the model as it was loaded have the empty name.
    pub fn new(text: &str, syntax: PromptSyntax, clip_skip: usize, encoders: &str) -> Self {
        Self { text: text.to_owned(), syntax, clip_skip, encoders: encoders.to_owned() }
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.text.len() + self.encoders.len()
    }
}

/// Embeddings by key, bounded in bytes: the least recently used go first.
#[derive(Debug)]
pub struct EmbeddingCache {
    limit: usize,
    kept: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    entries: HashMap<EmbeddingKey, Entry>,
    bytes: usize,
    hits: u64,
    /// Counts uses; an entry's last one says how recent it is.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    tensors: Vec<Tensor>,
    bytes: usize,
    used: u64,
}

impl Default for EmbeddingCache {
    fn default() -> Self {
        Self::new(LIMIT)
    }
}

impl EmbeddingCache {
    /// Keeps at most `limit` bytes of tensors and keys.
    pub fn new(limit: usize) -> Self {
        Self { limit, kept: Mutex::default() }
    }

    /// The tensors of `key`, which `encode` computes when they are not kept. They are kept with the storage they are a
    /// part of, so `encode` returns whole tensors, not views of larger ones.
    ///
    /// # Errors
    /// Those of `encode`; nothing is kept then.
    pub fn get_or_encode<E>(
        &self,
        key: EmbeddingKey,
        encode: impl FnOnce() -> Result<Vec<Tensor>, E>,
    ) -> Result<Vec<Tensor>, E> {
        if let Some(tensors) = self.kept().find(&key) {
            return Ok(tensors);
        }
        let tensors = encode()?;
        self.kept().keep(key, &tensors, self.limit);
        Ok(tensors)
    }

    /// How often nothing had to be encoded.
    pub fn hits(&self) -> u64 {
        self.kept().hits
    }

    /// Bytes kept.
    pub fn bytes(&self) -> usize {
        self.kept().bytes
    }

    fn kept(&self) -> MutexGuard<'_, Entries> {
        // No code that can panic runs between two changes that belong together.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn find(&mut self, key: &EmbeddingKey) -> Option<Vec<Tensor>> {
        let entry = self.entries.get_mut(key)?;
        self.clock += 1;
        self.hits += 1;
        entry.used = self.clock;
        Some(entry.tensors.clone())
    }

    fn keep(&mut self, key: EmbeddingKey, tensors: &[Tensor], limit: usize) {
        let size = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        let bytes = key.bytes() + tensors.iter().map(size).sum::<usize>();
        if bytes > limit {
            return;
        }
        self.forget(&key);
        while self.bytes + bytes > limit {
            let Some(oldest) = self.entries.iter().min_by_key(|(_, entry)| entry.used) else {
                return;
            };
            self.forget(&oldest.0.clone());
        }
        self.clock += 1;
        self.bytes += bytes;
        self.entries.insert(key, Entry { tensors: tensors.to_vec(), bytes, used: self.clock });
    }

    fn forget(&mut self, key: &EmbeddingKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use candle_core::{DType, Device};

    use super::*;

    const KIB: usize = 1024;

    fn key(text: &str) -> EmbeddingKey {
        EmbeddingKey::new(text, PromptSyntax::Plain, 0, "")
    }

    /// Asks for a tensor of one KiB; true when it had to be computed.
    fn asks(cache: &EmbeddingCache, key: EmbeddingKey) -> bool {
        let mut computed = false;
        let encode = || {
            computed = true;
            Ok::<_, Infallible>(vec![Tensor::zeros(KIB / 4, DType::F32, &Device::Cpu).unwrap()])
        };
        cache.get_or_encode(key, encode).unwrap();
        computed
    }

    #[test]
    fn a_second_request_is_served_from_the_cache() {
        let cache = EmbeddingCache::default();
        assert!(asks(&cache, key("a")));
        assert!(!asks(&cache, key("a")));
        assert_eq!(cache.hits(), 1);
    }

    #[test]
    fn whatever_changes_the_embeddings_is_part_of_the_key() {
        let cache = EmbeddingCache::default();
        let keys = [
            key("a"),
            key("b"),
            EmbeddingKey::new("a", PromptSyntax::A1111, 0, ""),
            EmbeddingKey::new("a", PromptSyntax::Plain, 1, ""),
            EmbeddingKey::new("a", PromptSyntax::Plain, 0, "lora:0.5"),
        ];
        for key in keys {
            assert!(asks(&cache, key.clone()), "{key:?}");
        }
        assert_eq!(cache.hits(), 0);
    }

    #[test]
    fn the_least_recently_used_goes_first_and_the_bound_holds() {
        let limit = 4 * KIB;
        let cache = EmbeddingCache::new(limit);
        for text in ["a", "b", "c"] {
            assert!(asks(&cache, key(text)));
        }
        assert!(!asks(&cache, key("a")));
        assert!(asks(&cache, key("d")), "three fit with their keys, four do not");
        assert!(cache.bytes() <= limit);
        assert!(!asks(&cache, key("a")), "used after b");
        assert!(asks(&cache, key("b")), "gone for d");
        for i in 0..100 {
            asks(&cache, key(&i.to_string()));
            assert!(cache.bytes() <= limit);
        }
    }

    #[test]
    fn what_is_larger_than_the_bound_is_computed_and_not_kept() {
        let cache = EmbeddingCache::new(KIB);
        assert!(asks(&cache, key("a")) && asks(&cache, key("a")));
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn a_failure_is_not_kept() {
        let cache = EmbeddingCache::default();
        assert_eq!(cache.get_or_encode(key("a"), || Err("no memory")).unwrap_err(), "no memory");
        assert!(asks(&cache, key("a")));
    }
}
