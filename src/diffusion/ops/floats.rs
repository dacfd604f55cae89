//! Tensors as slices of f32, matrices over them, and products of matrices. No operation of a network lives here.

use std::marker::PhantomData;

use candle_core::{Layout, Result, Storage, StorageRef, Tensor, bail};

/// The values of an f32 tensor on the CPU, held for reading.
pub struct Floats<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> Floats<'a> {
    /// Of any layout.
    pub fn of(x: &'a Tensor) -> Self {
        let (storage, layout) = x.storage_and_layout();
        Self { storage, layout }
    }

    /// From the tensor's first value on; what follows is laid out as [`Self::strides`] say.
    pub fn values(&self) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(values) => Ok(&values.as_slice::<f32>()?[self.layout.start_offset()..]),
            _ => bail!("a tensor on another device than the CPU"),
        }
    }

    /// Values from one index to the next, for each dimension.
    pub fn strides(&self) -> &[usize] {
        self.layout.stride()
    }
}

/// A matrix that is read: `rows` x `columns` values, any strides.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// From the first of `values` on.
    ///
    /// # Panics
    /// Where the last value of the matrix is not in `values`.
    pub fn new(
        values: &'a [f32],
        (rows, columns): (usize, usize),
        (row_stride, column_stride): (usize, usize),
    ) -> Self {
        assert!(rows > 0 && columns > 0, "a matrix has values");
        assert!((rows - 1) * row_stride + (columns - 1) * column_stride < values.len());
        Self { values, rows, columns, row_stride, column_stride }
    }

    /// The same values, mirrored.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// A matrix that is written: rows of `columns` neighbouring values, `row_stride` apart.
pub struct MatrixMut<'a> {
    first: *mut f32,
    rows: usize,
    columns: usize,
    row_stride: usize,
    values: PhantomData<&'a mut [f32]>,
}

impl<'a> MatrixMut<'a> {
    /// From the first of `values` on.
    ///
    /// # Panics
    /// Where rows overlap or the last value is not in `values`.
    pub fn new(values: &'a mut [f32], (rows, columns): (usize, usize), row_stride: usize) -> Self {
        assert!(rows > 0 && columns > 0 && columns <= row_stride, "rows with values do not overlap");
        assert!((rows - 1) * row_stride + columns <= values.len());
        Self { first: values.as_mut_ptr(), rows, columns, row_stride, values: PhantomData }
    }

    /// One row.
    pub fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows);
        // SAFETY: the matrix lies within values that it alone may touch, which its maker has checked.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(row * self.row_stride), self.columns) }
    }

    /// `self = scale * a b`, or, with `add`, `self += scale * a b`. On the calling thread.
    ///
    /// # Panics
    /// Where the shapes do not fit.
    pub fn product(&mut self, a: Matrix<'_>, b: Matrix<'_>, scale: f32, add: bool) {
        assert!(a.rows == self.rows && b.columns == self.columns && a.columns == b.rows);
        // SAFETY: each matrix lies within its values, which its maker has checked; `self` is borrowed for writing.
        unsafe {
            gemm::gemm(
                self.rows,
                self.columns,
                a.columns,
                self.first,
                1,
                self.row_stride as isize,
                add,
                a.values.as_ptr(),
                a.column_stride as isize,
                a.row_stride as isize,
                b.values.as_ptr(),
                b.column_stride as isize,
                b.row_stride as isize,
                1.0,
                scale,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

/// An output that several threads write, each its own part.
pub struct Output<'a> {
    first: *mut f32,
    len: usize,
    values: PhantomData<&'a mut [f32]>,
}

// SAFETY: values are reached through `matrix` only, whose callers answer for it that parts do not overlap.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    /// All of `values`.
    pub fn new(values: &'a mut [f32]) -> Self {
        Self { first: values.as_mut_ptr(), len: values.len(), values: PhantomData }
    }

    /// A part.
    ///
    /// # Safety
    /// No other part that has a value of this one may live as long as this one does.
    ///
    /// # Panics
    /// As [`MatrixMut::new`].
    pub unsafe fn matrix(
        &self,
        start: usize,
        (rows, columns): (usize, usize),
        row_stride: usize,
    ) -> MatrixMut<'a> {
        assert!(rows > 0 && columns > 0 && columns <= row_stride, "rows with values do not overlap");
        assert!(start + (rows - 1) * row_stride + columns <= self.len);
        // SAFETY: `start` is within the values, as was just checked.
        let first = unsafe { self.first.add(start) };
        MatrixMut { first, rows, columns, row_stride, values: PhantomData }
    }
}
