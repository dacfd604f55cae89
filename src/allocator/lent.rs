//! Parts of mapped files that vectors own. candle's tensors on a CPU own vectors: this way weights are used where the
//! file is mapped, without a copy.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use memmap2::MmapMut;

use super::Plain;

/// Parts of fewer bytes are not lent: only vectors from this size on are looked up when they are freed.
const SMALLEST: usize = 64 << 10;

/// What is lent, by its first address. Nothing that the map itself allocates is as large as [`SMALLEST`], so that
/// freeing it asks for no lock.
static LENT: Mutex<BTreeMap<usize, Part>> = Mutex::new(BTreeMap::new());

struct Part {
    end: usize,
    /// Keeps the file mapped.
    _map: Arc<MmapMut>,
}

/// `len` values from byte `start` of a map on, as a vector that is the map's memory and keeps it mapped. None where a
/// value cannot begin there, where the part is small, or where some of it is lent already.
///
/// # Safety
/// The map is private to this process, can be written, and nothing else writes what is lent.
///
/// # Panics
/// Where the part is not within the map.
pub unsafe fn lend<T: Plain>(map: &Arc<MmapMut>, start: usize, len: usize) -> Option<Vec<T>> {
    let bytes = len.checked_mul(size_of::<T>()).expect("a part of a map has a size");
    assert!(start <= map.len() && bytes <= map.len() - start, "a part lies within its map");
    let first = map.as_ptr().wrapping_add(start).cast_mut().cast::<T>();
    let (address, end) = (first.addr(), first.addr() + bytes);
    if bytes < SMALLEST || !first.is_aligned() {
        return None;
    }
    let mut lent = lock();
    let before = lent.range(..end).next_back();
    if before.is_some_and(|(_, part)| part.end > address) {
        return None;
    }
    lent.insert(address, Part { end, _map: map.clone() });
    drop(lent);
    // SAFETY: this allocator holds the part from now on as a block of its own, of just this size, until a vector gives
    // it back; the values are there, as the file has them.
    Some(unsafe { Vec::from_raw_parts(first, len, len) })
}

/// Whether a block of this size that is freed was lent; then it is given back.
pub fn give_back(block: *mut u8, bytes: usize) -> bool {
    // The part, and with the last of them the map, goes when the lock is free again.
    bytes >= SMALLEST && { lock().remove(&block.addr()) }.is_some()
}

/// Whether a block of this size is lent.
pub fn is_lent(block: *mut u8, bytes: usize) -> bool {
    bytes >= SMALLEST && lock().contains_key(&block.addr())
}

fn lock() -> MutexGuard<'static, BTreeMap<usize, Part>> {
    LENT.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use memmap2::MmapOptions;

    use super::*;

    const VALUES: usize = 40_000;

    /// A map of `0.0, 1.0, ..`, and the file, which it does not need any more.
    fn map() -> (Arc<MmapMut>, tempfile::NamedTempFile) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..VALUES).flat_map(|i| (i as f32).to_le_bytes()).collect();
        file.write_all(&bytes).unwrap();
        // SAFETY: nobody else has the file.
        (Arc::new(unsafe { MmapOptions::new().map_copy(file.as_file()) }.unwrap()), file)
    }

    fn lend_f32(map: &Arc<MmapMut>, start: usize, len: usize) -> Option<Vec<f32>> {
        // SAFETY: the maps here are private, and nothing writes them.
        unsafe { lend(map, start, len) }
    }

    #[test]
    fn a_vector_is_the_map_s_memory_and_keeps_it_mapped() {
        let (map, _file) = map();
        let kept = Arc::downgrade(&map);
        let vector = lend_f32(&map, 8, 20_000).unwrap();
        assert_eq!(vector.as_ptr().addr(), map.as_ptr().addr() + 8);
        drop(map);
        assert!(kept.upgrade().is_some());
        assert!(vector.iter().enumerate().all(|(i, value)| *value == (i + 2) as f32));
        drop(vector);
        assert!(kept.upgrade().is_none());
    }

    #[test]
    fn a_vector_that_grows_or_is_written_to_leaves_the_file_alone() {
        let (map, file) = map();
        let mut vector = lend_f32(&map, 0, 20_000).unwrap();
        vector[0] = 7.0;
        vector.push(8.0);
        assert_eq!((vector[0], vector[19_999], vector[20_000]), (7.0, 19_999.0, 8.0));
        assert_eq!(Arc::strong_count(&map), 1);
        assert!(lend_f32(&map, 0, 20_000).is_some(), "growing gave the part back");
        assert_eq!(std::fs::read(file.path()).unwrap()[..4], 0f32.to_le_bytes());
    }

    #[test]
    fn what_is_lent_is_not_lent_again_until_it_is_given_back() {
        let (map, _file) = map();
        let vector = lend_f32(&map, 4 * 10_000, 20_000).unwrap();
        for (start, len) in [(10_000, 20_000), (0, VALUES), (20_000, 20_000), (0, 20_000), (29_999, 10_000)] {
            let lent = lend_f32(&map, 4 * start, len);
            assert!(lent.is_none(), "{start} {len}");
        }
        drop(vector);
        assert_eq!(lend_f32(&map, 0, VALUES).map(|vector| vector.len()), Some(VALUES));
    }

    #[test]
    fn small_parts_and_odd_addresses_are_not_lent() {
        let (map, _file) = map();
        assert!(lend_f32(&map, 0, SMALLEST / 4 - 1).is_none());
        assert!(lend_f32(&map, 2, 20_000).is_none());
        assert!(lend_f32(&map, 0, SMALLEST / 4).is_some());
    }
}
