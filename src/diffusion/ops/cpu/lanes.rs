//! Vectors of f32 as the processor has them, and the choice among them at run time. No arithmetic of a network lives
//! here.
//!
//! A product and a sum are fused where the processor does that, and never elsewhere. The last bits of a result depend on
//! that, and not on how many values a vector holds: AVX2 and AVX-512 give the same.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "blocks in functions of `Lanes` ask what its safety note says"
)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::tile::Product;

/// One kind of vector. Functions are inlined into one that was compiled for the processor's features.
///
/// # Safety
/// All of them may be called only where the processor has the features; pointers are valid for [`Self::COUNT`] values.
pub trait Lanes: Copy + 'static {
    /// A vector.
    type Vector: Copy;
    /// Values in a vector.
    const COUNT: usize;
    /// Rows of two vectors each that are summed in registers at once.
    const ROWS: usize;
    /// The same value in every lane.
    unsafe fn splat(x: f32) -> Self::Vector;
    /// Reads values that need not be aligned.
    unsafe fn load(from: *const f32) -> Self::Vector;
    /// Writes values that need not be aligned.
    unsafe fn store(to: *mut f32, x: Self::Vector);
    /// `a * b + c`.
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `a + b`.
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a - b`.
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b`.
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// A square of [`Self::COUNT`] rows, `from_step` values apart, mirrored into rows `to_step` apart.
    unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize);
    /// See [`Product::compute`](super::tile::Product::compute).
    unsafe fn product(product: &Product);
}

/// 16 values, 32 registers.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Avx512;

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx512 {
    type Vector = __m512;
    const COUNT: usize = 16;
    const ROWS: usize = 12;
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m512) {
        unsafe { _mm512_storeu_ps(to, x) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
        unsafe {
            let row = |i: usize| _mm512_loadu_ps(from.add(i * from_step));
            // Pairs of rows interleaved, then pairs of pairs: four rows side by side in each quarter of a vector.
            let mut quads = [_mm512_setzero_ps(); 16];
            for i in 0..4 {
                let [a, b, c, d] = [row(4 * i), row(4 * i + 1), row(4 * i + 2), row(4 * i + 3)];
                let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
                quads[4 * i] = _mm512_shuffle_ps::<0x44>(ab, cd);
                quads[4 * i + 1] = _mm512_shuffle_ps::<0xee>(ab, cd);
                let (ab, cd) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
                quads[4 * i + 2] = _mm512_shuffle_ps::<0x44>(ab, cd);
                quads[4 * i + 3] = _mm512_shuffle_ps::<0xee>(ab, cd);
            }
            // Then quarters are gathered.
            for i in 0..4 {
                let [a, b, c, d] = [quads[i], quads[4 + i], quads[8 + i], quads[12 + i]];
                let (ab, cd) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d));
                _mm512_storeu_ps(to.add(i * to_step), _mm512_shuffle_f32x4::<0x88>(ab, cd));
                _mm512_storeu_ps(to.add((8 + i) * to_step), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
                let (ab, cd) = (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d));
                _mm512_storeu_ps(to.add((4 + i) * to_step), _mm512_shuffle_f32x4::<0x88>(ab, cd));
                _mm512_storeu_ps(to.add((12 + i) * to_step), _mm512_shuffle_f32x4::<0xdd>(ab, cd));
            }
        }
    }
    #[inline(always)]
    unsafe fn product(product: &Product) {
        #[target_feature(enable = "avx512f,avx2,fma")]
        unsafe fn compiled(product: &Product) {
            unsafe { product.compute::<Avx512>() }
        }
        unsafe { compiled(product) }
    }
}

/// 8 values, 16 registers.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub struct Avx2;

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx2 {
    type Vector = __m256;
    const COUNT: usize = 8;
    const ROWS: usize = 6;
    #[inline(always)]
    unsafe fn splat(x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m256) {
        unsafe { _mm256_storeu_ps(to, x) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
        unsafe {
            let row = |i: usize| _mm256_loadu_ps(from.add(i * from_step));
            let mut quads = [_mm256_setzero_ps(); 8];
            for i in 0..2 {
                let [a, b, c, d] = [row(4 * i), row(4 * i + 1), row(4 * i + 2), row(4 * i + 3)];
                let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
                quads[4 * i] = _mm256_shuffle_ps::<0x44>(ab, cd);
                quads[4 * i + 1] = _mm256_shuffle_ps::<0xee>(ab, cd);
                let (ab, cd) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
                quads[4 * i + 2] = _mm256_shuffle_ps::<0x44>(ab, cd);
                quads[4 * i + 3] = _mm256_shuffle_ps::<0xee>(ab, cd);
            }
            for i in 0..4 {
                let (a, b) = (quads[i], quads[4 + i]);
                _mm256_storeu_ps(to.add(i * to_step), _mm256_permute2f128_ps::<0x20>(a, b));
                _mm256_storeu_ps(to.add((4 + i) * to_step), _mm256_permute2f128_ps::<0x31>(a, b));
            }
        }
    }
    #[inline(always)]
    unsafe fn product(product: &Product) {
        #[target_feature(enable = "avx2,fma")]
        unsafe fn compiled(product: &Product) {
            unsafe { product.compute::<Avx2>() }
        }
        unsafe { compiled(product) }
    }
}

/// 8 values, of which the compiler makes what the processor has.
#[derive(Clone, Copy)]
pub struct Portable;

impl Lanes for Portable {
    type Vector = [f32; 8];
    const COUNT: usize = 8;
    const ROWS: usize = 4;
    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 8] {
        // SAFETY: the caller's pointer is valid for as many values.
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: [f32; 8]) {
        // SAFETY: the caller's pointer is valid for as many values.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_step: usize, to: *mut f32, to_step: usize) {
        for row in 0..Self::COUNT {
            for column in 0..Self::COUNT {
                // SAFETY: the caller's pointers are valid for a square of values.
                unsafe { *to.add(column * to_step + row) = *from.add(row * from_step + column) };
            }
        }
    }
    #[inline(never)]
    unsafe fn product(product: &Product) {
        // SAFETY: the caller's promise.
        unsafe { product.compute::<Portable>() }
    }
}

/// Something to compute with any kind of vector. `run` is `#[inline(always)]`, so that it is compiled for each.
pub trait Work {
    /// What comes out.
    type Output;
    /// Computes it.
    ///
    /// # Safety
    /// The processor has `S`.
    unsafe fn run<S: Lanes>(self) -> Self::Output;
}

/// What this processor can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuLevel(Kind);

/// Kinds of vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`Portable`].
    Portable,
    /// [`Avx2`].
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// [`Avx512`].
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl CpuLevel {
    /// The best there is.
    pub fn best() -> Self {
        #[cfg(test)]
        if let Some(level) = chosen::LEVEL.get() {
            return level;
        }
        Self::all().next().expect("there is always the portable one")
    }

    /// All there are, the best first.
    pub fn all() -> impl Iterator<Item = Self> {
        let mut kinds = vec![];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 && is_x86_feature_detected!("avx512f") {
                kinds.push(Kind::Avx512);
            }
            if avx2 {
                kinds.push(Kind::Avx2);
            }
        }
        kinds.push(Kind::Portable);
        kinds.into_iter().map(Self)
    }

    /// The kind of vectors; the processor has them.
    pub fn kind(self) -> Kind {
        self.0
    }

    /// Values of two vectors.
    pub fn columns(self) -> usize {
        match self.0 {
            Kind::Portable => 2 * Portable::COUNT,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => 2 * Avx2::COUNT,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => 2 * Avx512::COUNT,
        }
    }

    /// Values of a vector.
    pub fn count(self) -> usize {
        self.columns() / 2
    }

    /// Rows that are summed in registers at once.
    pub fn rows(self) -> usize {
        match self.0 {
            Kind::Portable => Portable::ROWS,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => Avx2::ROWS,
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => Avx512::ROWS,
        }
    }

    /// Does `work` with this kind of vector.
    pub fn run<W: Work>(self, work: W) -> W::Output {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx2,fma")]
        unsafe fn avx512<W: Work>(work: W) -> W::Output {
            unsafe { work.run::<Avx512>() }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2<W: Work>(work: W) -> W::Output {
            unsafe { work.run::<Avx2>() }
        }
        // SAFETY: there is no such level but on a processor that has these features.
        unsafe {
            match self.0 {
                Kind::Portable => work.run::<Portable>(),
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2 => avx2(work),
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512 => avx512(work),
            }
        }
    }
}

#[cfg(test)]
mod chosen {
    use std::cell::Cell;

    use super::CpuLevel;

    thread_local! {
        /// The level that tests want on their thread.
        pub static LEVEL: Cell<Option<CpuLevel>> = const { Cell::new(None) };
    }

    impl CpuLevel {
        /// Does `work` with this level in the place of the best.
        pub fn instead<T>(self, work: impl FnOnce() -> T) -> T {
            LEVEL.set(Some(self));
            let done = work();
            LEVEL.set(None);
            done
        }
    }
}
