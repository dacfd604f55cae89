//! How the tensors of a component are named in a file that has other names than diffusers'.

use std::ops::Range;

use candle_core::Tensor;

use crate::diffusion::DiffusionError;

/// How the tensors of one component are named in a file.
pub trait Names: Send + Sync {
    /// Whether a tensor of that name in the file is of the component.
    fn has(&self, name: &str) -> bool;

    /// The name in the file of what diffusers calls `key`, and which cut of it that is. `has` says what the file holds. A
    /// name that has no counterpart stays as it is, under the component's prefix.
    fn original(&self, key: &str, has: &dyn Fn(&str) -> bool) -> (String, Cut);
}

/// diffusers' own names, under a prefix: empty, or ending in a dot.
#[derive(Debug, Clone, Copy)]
pub struct Under(pub &'static str);

impl Names for Under {
    fn has(&self, name: &str) -> bool {
        name.starts_with(self.0)
    }

    fn original(&self, key: &str, _: &dyn Fn(&str) -> bool) -> (String, Cut) {
        (format!("{}{key}", self.0), Cut::Whole)
    }
}

/// Which part of a tensor in the file is the tensor that diffusers names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// All of it.
    Whole,
    /// So many rows, in parts of equally many: the first of them, how many, and of how many in all.
    Rows {
        /// The first part.
        from: usize,
        /// Parts.
        parts: usize,
        /// Parts of the tensor in the file.
        of: usize,
    },
    /// Both halves of its rows exchanged.
    Swapped,
    /// Rows and columns exchanged.
    Transposed,
    /// A convolution with a kernel of 1 as the matrix that it is.
    Matrix,
}

impl Cut {
    /// One of three parts of equal rows: query, key, value.
    pub const fn third(from: usize) -> Self {
        Self::Rows { from, parts: 1, of: 3 }
    }

    /// The shape that a tensor in the file must have for this cut of it to have `shape`.
    pub fn shape_in_file(self, shape: &[usize], found: Option<&[usize]>) -> Vec<usize> {
        let mut wanted = shape.to_vec();
        match self {
            Self::Whole | Self::Swapped => {}
            Self::Rows { parts, of, .. } => {
                wanted.iter_mut().take(1).for_each(|rows| *rows = *rows / parts * of)
            }
            Self::Transposed => wanted.reverse(),
            Self::Matrix => {
                let kernel = found.map_or(2, |found| found.len().saturating_sub(2)).min(2);
                wanted.extend(std::iter::repeat_n(1, kernel));
            }
        }
        wanted
    }

    /// The rows of a tensor in the file that are read for this cut of it to have `shape`; none: all.
    pub fn rows(self, shape: &[usize]) -> Option<Range<usize>> {
        let rows = shape.first().copied().unwrap_or(0);
        match self {
            Self::Rows { from, parts, .. } => Some(rows / parts * from..rows / parts * from + rows),
            Self::Whole | Self::Swapped | Self::Transposed | Self::Matrix => None,
        }
    }

    /// The cut, of `shape`, of what was read of a tensor: its [rows](Self::rows).
    ///
    /// # Errors
    /// What candle says.
    pub fn of(self, tensor: &Tensor, shape: &[usize]) -> Result<Tensor, DiffusionError> {
        Ok(match self {
            Self::Whole | Self::Rows { .. } => tensor.clone(),
            Self::Swapped => {
                let rows = shape.first().copied().unwrap_or(0);
                let half = rows / 2;
                Tensor::cat(&[tensor.narrow(0, half, rows - half)?, tensor.narrow(0, 0, half)?], 0)?
            }
            Self::Transposed => tensor.t()?.contiguous()?,
            Self::Matrix => tensor.reshape(shape)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_cut_is_the_rows_that_it_names() {
        let (v, dense) = (Cut::Rows { from: 2, parts: 1, of: 7 }, Cut::Rows { from: 3, parts: 4, of: 7 });
        assert_eq!((v.shape_in_file(&[2, 5], None), v.rows(&[2, 5])), (vec![14, 5], Some(4..6)));
        assert_eq!((dense.shape_in_file(&[8], None), dense.rows(&[8])), (vec![14], Some(6..14)));
        assert_eq!((Cut::third(1).shape_in_file(&[2, 5], None), Cut::Whole.rows(&[2])), (vec![6, 5], None));
    }

    #[test]
    fn halves_are_exchanged() {
        let tensor = Tensor::arange(0_f32, 6.0, &Device::Cpu).unwrap().reshape((6, 1)).unwrap();
        let swapped = Cut::Swapped.of(&tensor, &[6, 1]).unwrap().flatten_all().unwrap();
        assert_eq!(swapped.to_vec1::<f32>().unwrap(), [3.0, 4.0, 5.0, 0.0, 1.0, 2.0]);
    }
}
