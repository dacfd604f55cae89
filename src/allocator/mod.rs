//! The allocator of every binary with a worker: the system's, and beside it memory that is a part of a mapped file
//! (`lent`), and large blocks that are used again (`kept`).

mod kept;
mod lent;

use std::alloc::{GlobalAlloc, Layout, System, handle_alloc_error};

pub use self::{
    kept::{Counts, counts},
    lent::lend,
};

/// Values of which any bits are one.
///
/// # Safety
/// Any bits are a value, and nothing has to be done when one is dropped.
pub unsafe trait Plain: Copy {}
// SAFETY: floating point numbers.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for f64 {}
// SAFETY: as above, of 16 bits.
unsafe impl Plain for half::f16 {}
// SAFETY: as above.
unsafe impl Plain for half::bf16 {}

/// `len` values that are whatever was left in their memory; in a debug build they are no numbers.
pub fn leftover(len: usize) -> Vec<f32> {
    let layout = Layout::array::<f32>(len).expect("a vector has a size");
    let mut values = if kept::is_large(layout) {
        let block = kept::take(layout, false);
        if block.is_null() {
            handle_alloc_error(layout);
        }
        // SAFETY: a block of this allocator, of this layout or a larger one, and all of its bytes have been written once.
        unsafe { Vec::from_raw_parts(block.cast(), len, len) }
    } else {
        vec![0.0; len]
    };
    if cfg!(debug_assertions) {
        values.fill(f32::NAN);
    }
    values
}

/// The allocator.
pub struct Allocator;

// SAFETY: what is neither lent nor large is left to the system's allocator. A lent part is a block that begins and ends
// where the vector says, belongs to nobody else, and is given back once; a large block has one owner, or is kept.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if kept::is_large(layout) {
            return kept::take(layout, false);
        }
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if kept::is_large(layout) {
            return kept::take(layout, true);
        }
        // SAFETY: the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if lent::give_back(block, layout.size()) {
            return;
        }
        // SAFETY: the caller's; the block was not lent.
        unsafe {
            if kept::is_large(layout) {
                return kept::give(block, layout);
            }
            System.dealloc(block, layout)
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller answers for the size.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        let lent = lent::is_lent(block, layout.size());
        if !lent && !kept::is_large(layout) && !kept::is_large(new) {
            // SAFETY: the caller's; the block is the system's.
            return unsafe { System.realloc(block, layout, size) };
        }
        if !lent && kept::have_same_block(layout, new) {
            return block;
        }
        // SAFETY: both blocks have the bytes that are copied.
        unsafe {
            let moved = self.alloc(new);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}
