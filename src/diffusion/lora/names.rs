//! What a layer is called in a file, and which part of it where the file has several layers of a model as one.

use candle_core::{Result, Tensor};

/// A name of a layer in a file, up to the part that says which matrix it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerName {
    /// It.
    pub name: String,
    /// Which rows of the file's layer the layer has; none: it has all of them.
    pub rows: Option<Rows>,
}

/// Some rows of a weight that is several layers of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    /// Where they begin and how many they are, one range behind the other.
    pub ranges: Vec<(usize, usize)>,
    /// Rows that the file's weight has.
    pub of: usize,
}

impl From<String> for LayerName {
    fn from(name: String) -> Self {
        Self { name, rows: None }
    }
}

impl Rows {
    /// One range of them.
    pub fn range(start: usize, length: usize, of: usize) -> Self {
        Self { ranges: vec![(start, length)], of }
    }

    /// Those of a tensor's first side.
    ///
    /// # Errors
    /// What candle says.
    pub fn of_tensor(&self, x: &Tensor) -> Result<Tensor> {
        let parts = self.ranges.iter().map(|(start, length)| x.narrow(0, *start, *length));
        Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
    }
}
