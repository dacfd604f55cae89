//! Large blocks that were freed, kept for whoever asks for as much next: operations on large maps ask for the same sizes
//! over and over, and the system clears all memory that it gives.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    mem::ManuallyDrop,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Blocks from this size on are kept, and counted.
const SMALLEST: usize = 1 << 20;
/// Beyond any memory: larger sizes are left to the system, which refuses them.
const LARGEST: usize = isize::MAX as usize / 2;
/// Bytes that are kept at most.
const MOST: usize = 256 << 20;
/// The alignment of all large blocks; what asks for more is the system's.
const ALIGNMENT: usize = 16;

/// Freed blocks, the one that was freed last at the end. The vector itself is small, so that it grows without the lock.
static KEPT: Mutex<Kept> = Mutex::new(Kept { blocks: Vec::new(), bytes: 0 });
static ASKED: AtomicU64 = AtomicU64::new(0);
static FRESH: AtomicU64 = AtomicU64::new(0);

struct Kept {
    blocks: Vec<Block>,
    bytes: usize,
}

/// A block of the system's that belongs to nobody.
struct Block {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: memory, which any thread may free.
unsafe impl Send for Block {}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the block came from the system with this layout.
        unsafe { System.dealloc(self.start, layout_of(self.bytes)) }
    }
}

impl Kept {
    /// A block of so many bytes, or as many bytes of the oldest blocks, or all, to be freed: what is kept must not add to
    /// what is needed at once.
    fn take(&mut self, bytes: usize) -> Result<Block, Vec<Block>> {
        match self.blocks.iter().rposition(|block| block.bytes == bytes) {
            Some(index) => Ok(self.remove(index)),
            None => Err(self.oldest(bytes)),
        }
    }

    /// Keeps a block. Returns what is over the limit for that.
    fn keep(&mut self, block: Block) -> Vec<Block> {
        self.bytes += block.bytes;
        self.blocks.push(block);
        self.oldest(self.bytes.saturating_sub(MOST))
    }

    fn oldest(&mut self, bytes: usize) -> Vec<Block> {
        let mut oldest = Vec::new();
        let mut sum = 0;
        while sum < bytes && !self.blocks.is_empty() {
            sum += self.blocks[0].bytes;
            oldest.push(self.remove(0));
        }
        oldest
    }

    fn remove(&mut self, index: usize) -> Block {
        let block = self.blocks.remove(index);
        self.bytes -= block.bytes;
        block
    }
}

/// Bytes of large blocks since the process began.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// That were asked for.
    pub asked: u64,
    /// That the system gave for that.
    pub fresh: u64,
}

/// What was allocated so far.
pub fn counts() -> Counts {
    Counts { asked: ASKED.load(Relaxed), fresh: FRESH.load(Relaxed) }
}

/// Whether blocks of this layout are kept.
pub fn is_large(layout: Layout) -> bool {
    (SMALLEST..=LARGEST).contains(&layout.size()) && layout.align() <= ALIGNMENT
}

/// Whether a large block of one layout is one of the other too.
pub fn have_same_block(one: Layout, other: Layout) -> bool {
    is_large(one) && is_large(other) && rounded(one.size()) == rounded(other.size())
}

/// A large block, of which all bytes have been written once; null where the system has none.
pub fn take(layout: Layout, zeros: bool) -> *mut u8 {
    let bytes = rounded(layout.size());
    ASKED.fetch_add(bytes as u64, Relaxed);
    // The lock is free again before blocks are freed.
    let found = { lock().take(bytes) };
    match found {
        Ok(block) => {
            let start = ManuallyDrop::new(block).start;
            if zeros {
                // SAFETY: the block is ours and has so many bytes.
                unsafe { start.write_bytes(0, layout.size()) };
            }
            start
        }
        Err(instead) => {
            drop(instead);
            FRESH.fetch_add(bytes as u64, Relaxed);
            // SAFETY: the layout has a size.
            unsafe { System.alloc_zeroed(layout_of(bytes)) }
        }
    }
}

/// Keeps a large block.
///
/// # Safety
/// It came from [`take`] with this layout, and nobody uses it any more.
pub unsafe fn give(start: *mut u8, layout: Layout) {
    let over = { lock().keep(Block { start, bytes: rounded(layout.size()) }) };
    drop(over);
}

fn lock() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sizes are few, so that blocks fit; at most an eighth of one is not used.
fn rounded(bytes: usize) -> usize {
    bytes.next_multiple_of(bytes.next_power_of_two() / 16)
}

fn layout_of(bytes: usize) -> Layout {
    // SAFETY: a power of two, and at most an eighth more than `LARGEST`.
    unsafe { Layout::from_size_align_unchecked(bytes, ALIGNMENT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, 4).unwrap()
    }

    fn block(bytes: usize) -> Block {
        // SAFETY: the layout has a size.
        Block { start: unsafe { System.alloc_zeroed(layout_of(bytes)) }, bytes }
    }

    fn sizes(blocks: &[Block]) -> Vec<usize> {
        blocks.iter().map(|block| block.bytes >> 20).collect()
    }

    #[test]
    fn the_last_block_of_a_size_is_used_again_and_the_oldest_go_for_what_is_not_there() {
        let mut kept = Kept { blocks: Vec::new(), bytes: 0 };
        for mib in [1, 2, 1, 3, 2] {
            assert!(kept.keep(block(mib << 20)).is_empty());
        }
        let last = kept.blocks[2].start;
        assert_eq!(kept.take(1 << 20).ok().map(|block| block.start), Some(last));
        assert_eq!(sizes(&kept.take(4 << 20).err().unwrap()), [1, 2, 3]);
        assert_eq!((sizes(&kept.blocks), kept.bytes), (vec![2], 2 << 20));
        assert_eq!(sizes(&kept.take(9 << 20).err().unwrap()), [2]);
        assert!(kept.take(9 << 20).is_err_and(|instead| instead.is_empty()));
    }

    #[test]
    fn no_more_than_the_limit_is_kept() {
        let mut kept = Kept { blocks: Vec::new(), bytes: 0 };
        assert!(kept.keep(block(100 << 20)).is_empty());
        assert!(kept.keep(block(150 << 20)).is_empty());
        assert_eq!(sizes(&kept.keep(block(20 << 20))), [100]);
        assert_eq!(sizes(&kept.keep(block(MOST + (1 << 20)))), [150, 20, 257]);
        assert_eq!((kept.blocks.len(), kept.bytes), (0, 0));
    }

    #[test]
    fn memory_of_one_vector_is_zero_in_the_next_where_zeros_are_asked_for() {
        for _ in 0..4 {
            let zeros = vec![0.0f32; 3 << 18];
            assert!(zeros.iter().all(|value| *value == 0.0));
            drop(vec![1.0f32; 3 << 18]);
            let mut leftover = super::super::leftover(3 << 18);
            leftover.fill(2.0);
        }
    }

    #[test]
    fn a_vector_that_grows_and_shrinks_keeps_its_values() {
        let mut values: Vec<usize> = Vec::new();
        for value in 0..3_000_000 {
            values.push(value);
        }
        values.truncate(1_000_000);
        values.shrink_to_fit();
        values.extend(1_000_000..1_100_000);
        assert!(values.iter().copied().eq(0..1_100_000));
        values.truncate(10);
        values.shrink_to_fit();
        assert!(values.iter().copied().eq(0..10));
    }

    #[test]
    fn sizes_are_rounded_by_an_eighth_at_most_and_only_up() {
        for bytes in (SMALLEST..64 << 20).step_by(77_777) {
            let rounded = rounded(bytes);
            assert!((bytes..=bytes + bytes / 8).contains(&rounded), "{bytes} {rounded}");
            assert_eq!(super::rounded(rounded), rounded);
        }
        assert!(have_same_block(layout(SMALLEST + 1), layout(SMALLEST + 2)));
        assert!(!have_same_block(layout(SMALLEST - 1), layout(SMALLEST - 1)));
    }
}
