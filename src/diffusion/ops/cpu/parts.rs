//! An output that several threads write, each its own part.

use std::marker::PhantomData;

/// Values that several threads write.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    first: *mut f32,
    len: usize,
    values: PhantomData<&'a mut [f32]>,
}

// SAFETY: values are reached through `at` only, whose callers answer for it that parts do not overlap.
unsafe impl Sync for Parts<'_> {}
// SAFETY: as above.
unsafe impl Send for Parts<'_> {}

impl<'a> Parts<'a> {
    /// All of `values`.
    pub fn of(values: &'a mut [f32]) -> Self {
        Self { first: values.as_mut_ptr(), len: values.len(), values: PhantomData }
    }

    /// Where `len` values from `start` on are.
    ///
    /// # Panics
    /// Where they are not all there.
    pub fn at(&self, start: usize, len: usize) -> *mut f32 {
        assert!(start + len <= self.len);
        // SAFETY: within the values, as was just checked.
        unsafe { self.first.add(start) }
    }
}
