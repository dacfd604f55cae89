//! The innermost loop of every product: a tile of sums in registers.

#![allow(
    clippy::needless_range_loop,
    reason = "iterators keep arrays of vectors in memory, indices in registers"
)]

use std::{ptr, slice};

use super::lanes::{Lanes, Work};

/// What a product's sums begin with.
#[derive(Debug, Clone, Copy)]
pub enum Start {
    /// Nothing.
    Zero,
    /// What is in the output.
    Add,
    /// A value for each row.
    Rows(*const f32),
    /// A value for each column.
    Columns(*const f32),
}

/// `c[r][j] = start + sum over k of b[r][k] * a[k][j]` for all `rows` and at most two vectors of `columns`. Products are
/// added one after the other in the order of `k`, however rows and columns are cut.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    /// Products in a sum.
    pub depth: usize,
    /// `[depth][..]`, whole vectors: columns beyond the last one are read and not used.
    pub a: *const f32,
    /// Values from one step of `a` to the next.
    pub a_step: usize,
    /// `[rows][depth]`.
    pub b: *const f32,
    /// Values from one row of `b` to the next.
    pub b_row: usize,
    /// Rows of `b` and `c`.
    pub rows: usize,
    /// `[rows][columns]`.
    pub c: *mut f32,
    /// Values from one row of `c` to the next.
    pub c_row: usize,
    /// Columns of `c`.
    pub columns: usize,
    /// What sums begin with.
    pub start: Start,
}

impl Work for &Product {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Lanes>(self) {
        // SAFETY: the caller's promise.
        unsafe { S::product(self) }
    }
}

impl Product {
    /// Computes it.
    ///
    /// # Safety
    /// The processor has `S`, and the pointers are valid for what the fields say; nobody else touches `c`.
    #[inline(always)]
    pub unsafe fn compute<S: Lanes>(&self) {
        // SAFETY: the caller's promise.
        unsafe { if self.columns > S::COUNT { self.all_rows::<S, 2>() } else { self.all_rows::<S, 1>() } }
    }

    #[inline(always)]
    unsafe fn all_rows<S: Lanes, const V: usize>(&self) {
        // SAFETY: as for `compute`.
        unsafe {
            let mut row = 0;
            while row < self.rows {
                let left = (self.rows - row).min(S::ROWS);
                match left {
                    1 => self.tile::<S, 1, V>(row),
                    2 => self.tile::<S, 2, V>(row),
                    3 => self.tile::<S, 3, V>(row),
                    4 => self.tile::<S, 4, V>(row),
                    5 if S::ROWS >= 5 => self.tile::<S, 5, V>(row),
                    6 if S::ROWS >= 6 => self.tile::<S, 6, V>(row),
                    7 if S::ROWS >= 7 => self.tile::<S, 7, V>(row),
                    8 if S::ROWS >= 8 => self.tile::<S, 8, V>(row),
                    9 if S::ROWS >= 9 => self.tile::<S, 9, V>(row),
                    10 if S::ROWS >= 10 => self.tile::<S, 10, V>(row),
                    11 if S::ROWS >= 11 => self.tile::<S, 11, V>(row),
                    _ if S::ROWS >= 12 => self.tile::<S, 12, V>(row),
                    _ => unreachable!("a tile has at most ROWS rows"),
                }
                row += left;
            }
        }
    }

    /// `R` rows from `row` on, at whole vectors of the output, or by way of a copy.
    #[inline(always)]
    unsafe fn tile<S: Lanes, const R: usize, const V: usize>(&self, row: usize) {
        // SAFETY: as for `compute`; the copy has room for all rows.
        unsafe {
            let c = self.c.add(row * self.c_row);
            let add = self.begin(c, row, R);
            if self.columns == V * S::COUNT {
                return self.sum::<S, R, V>(row, c, self.c_row, add);
            }
            let mut copy = [0.0; MOST_ROWS * WIDEST];
            for r in 0..R {
                ptr::copy_nonoverlapping(
                    c.add(r * self.c_row),
                    copy.as_mut_ptr().add(r * WIDEST),
                    self.columns,
                );
            }
            self.sum::<S, R, V>(row, copy.as_mut_ptr(), WIDEST, add);
            for r in 0..R {
                ptr::copy_nonoverlapping(copy.as_ptr().add(r * WIDEST), c.add(r * self.c_row), self.columns);
            }
        }
    }

    /// Puts into `rows` of the output what their sums begin with. Returns whether there is anything.
    unsafe fn begin(&self, c: *mut f32, row: usize, rows: usize) -> bool {
        // SAFETY: as for `compute`; `start` has a value for each row or column.
        unsafe {
            for r in 0..rows {
                let c = c.add(r * self.c_row);
                match self.start {
                    Start::Zero => return false,
                    Start::Add => return true,
                    Start::Rows(values) => {
                        slice::from_raw_parts_mut(c, self.columns).fill(*values.add(row + r))
                    }
                    Start::Columns(values) => ptr::copy_nonoverlapping(values, c, self.columns),
                }
            }
            true
        }
    }

    #[inline(always)]
    unsafe fn sum<S: Lanes, const R: usize, const V: usize>(
        &self,
        row: usize,
        c: *mut f32,
        c_row: usize,
        add: bool,
    ) {
        // SAFETY: as for `compute`; `c` has `V` whole vectors in each row.
        unsafe {
            let mut sums = [[S::splat(0.0); V]; R];
            if add {
                for r in 0..R {
                    for v in 0..V {
                        sums[r][v] = S::load(c.add(r * c_row + v * S::COUNT));
                    }
                }
            }
            let (mut a, mut b) = (self.a, self.b.add(row * self.b_row));
            for _ in 0..self.depth {
                let mut columns = [S::splat(0.0); V];
                for v in 0..V {
                    columns[v] = S::load(a.add(v * S::COUNT));
                }
                for r in 0..R {
                    let x = S::splat(*b.add(r * self.b_row));
                    for v in 0..V {
                        sums[r][v] = S::mul_add(x, columns[v], sums[r][v]);
                    }
                }
                a = a.add(self.a_step);
                b = b.add(1);
            }
            for r in 0..R {
                for v in 0..V {
                    S::store(c.add(r * c_row + v * S::COUNT), sums[r][v]);
                }
            }
        }
    }
}

/// Room for two of the widest vectors, in as many rows as any kind of vector sums at once.
const WIDEST: usize = 32;
const MOST_ROWS: usize = 12;

#[cfg(test)]
mod tests {
    use super::{super::lanes::CpuLevel, *};

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0).collect()
    }

    /// Rows, columns and depth of a product with what it begins with, computed at each level and in f64.
    fn check(rows: usize, columns: usize, depth: usize, start: impl Fn(&[f32]) -> Start) {
        let (b_row, c_row) = (depth + 3, columns + 5);
        let (b, values) = (numbers(rows * b_row, 1), numbers(rows.max(columns), 2));
        for level in CpuLevel::all() {
            let a_step = level.columns();
            if columns > a_step {
                continue;
            }
            let a = numbers(depth * a_step, 3);
            let before = numbers(rows * c_row, 4);
            let mut c = before.clone();
            let start = start(&values);
            level.run(&Product {
                depth,
                a: a.as_ptr(),
                a_step,
                b: b.as_ptr(),
                b_row,
                rows,
                c: c.as_mut_ptr(),
                c_row,
                columns,
                start,
            });
            for (i, c) in c.iter().enumerate() {
                let (row, column) = (i / c_row, i % c_row);
                if column >= columns {
                    assert_eq!(*c, before[i], "{level:?}: what is beside the output stays");
                    continue;
                }
                let product = |k: usize| f64::from(b[row * b_row + k]) * f64::from(a[k * a_step + column]);
                let first = match start {
                    Start::Zero => 0.0,
                    Start::Add => before[i],
                    Start::Rows(_) => values[row],
                    Start::Columns(_) => values[column],
                };
                let exact = (0..depth).map(product).sum::<f64>() + f64::from(first);
                assert!(
                    (f64::from(*c) - exact).abs() < 1e-4,
                    "{level:?} {rows} x {columns} x {depth} at {i}"
                );
            }
        }
    }

    #[test]
    fn a_product_is_right_at_every_level_whatever_is_left_over() {
        for rows in (1..=13).chain([24, 31]) {
            for columns in [1, 7, 8, 9, 16, 17, 31, 32] {
                check(rows, columns, 5, |_| Start::Zero);
                check(rows, columns, 40, |_| Start::Add);
                check(rows, columns, 1, |values| Start::Rows(values.as_ptr()));
                check(rows, columns, 9, |values| Start::Columns(values.as_ptr()));
            }
        }
    }
}
