//! What a picture's adapters change in a layer, and how layers are shown to them.

use candle_core::{D, Result, Tensor};

use super::delta::{Delta, Gain, Pair};
use crate::diffusion::ops;

/// What a picture's adapters change in one layer.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    deltas: Vec<Delta>,
    /// The pairs among them as one, of a linear layer that has several.
    joined: Option<Joined>,
    /// `[out]` in f32: what each of the weight's rows is multiplied by, less 1; none: nothing is.
    outputs: Option<Tensor>,
    /// `[in]`, the same of columns.
    inputs: Option<Tensor>,
}

impl Changes {
    /// Whether the layer is as it was loaded.
    pub fn is_empty(&self) -> bool {
        self.deltas.is_empty() && self.outputs.is_none() && self.inputs.is_none()
    }

    /// Adds to the weight.
    ///
    /// # Errors
    /// What candle says.
    pub fn add(&mut self, delta: Delta) -> Result<()> {
        self.deltas.push(delta);
        self.joined = Joined::of(&self.deltas)?;
        Ok(())
    }

    /// Adds the weight as it was loaded, times `gain` less 1. What several add is summed, as peft does with adapters.
    ///
    /// # Errors
    /// What candle says.
    pub fn add_gain(&mut self, gain: &Gain) -> Result<()> {
        let (sum, gain) = match gain {
            Gain::Outputs(gain) => (&mut self.outputs, gain),
            Gain::Inputs(gain) => (&mut self.inputs, gain),
        };
        let more = (gain - 1.0)?;
        *sum = Some(match sum.take() {
            Some(sum) => (sum + more)?,
            None => more,
        });
        Ok(())
    }

    /// What a linear layer makes of `x` with these changes, plus `more` of the shape that comes out.
    ///
    /// # Errors
    /// What candle says.
    pub fn linear(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        more: Option<&Tensor>,
    ) -> Result<Tensor> {
        if self.has_gains() {
            let y = self.with_gains(x, D::Minus1, |x| ops::linear(x, weight, None))?;
            let y = bias.map_or(Ok(y.clone()), |bias| y.broadcast_add(&bias.to_dtype(y.dtype())?))?;
            let y = more.map_or(Ok(y.clone()), |more| ops::add(&y, more))?;
            return self.deltas.iter().try_fold(y, |y, delta| delta.add_to_linear(&y, x));
        }
        let pairs: Vec<Pair<'_>> = self.deltas.iter().filter_map(Delta::pair).collect();
        let low = |(down, _, scale): &Pair<'_>| ops::linear(x, down, None)? * *scale;
        let y = match (&self.joined, pairs.as_slice()) {
            (Some(joined), _) if ops::has_many_rows(x) => {
                ops::linear_added(x, weight, bias, more, (&joined.low(x)?, &joined.up))?
            }
            (_, [first, rest @ ..]) => {
                let y = ops::linear_added(x, weight, bias, more, (&low(first)?, first.1))?;
                rest.iter().try_fold(y, |y, pair| ops::linear_plus(&low(pair)?, pair.1, None, &y))?
            }
            (_, []) => match more {
                Some(more) => ops::linear_plus(x, weight, bias, more)?,
                None => ops::linear(x, weight, bias)?,
            },
        };
        let others = self.deltas.iter().filter(|delta| delta.pair().is_none());
        others.into_iter().try_fold(y, |y, delta| delta.add_to_linear(&y, x))
    }

    /// What a convolution makes of `x` with these changes, plus `more` of the shape that comes out. `bias` is `[out]` or,
    /// with one for each sample, `[batch, out]`.
    ///
    /// # Errors
    /// What candle says.
    pub fn conv2d(
        &self,
        x: &Tensor,
        weight: &Tensor,
        (bias, more): (Option<&Tensor>, Option<&Tensor>),
        stride: usize,
        padding: usize,
    ) -> Result<Tensor> {
        let mut y = match (self.has_gains(), more) {
            (true, _) => {
                let y = self.with_gains(x, D::Minus(3), |x| ops::conv2d(x, weight, None, stride, padding))?;
                let y = match bias {
                    Some(bias) => {
                        let bias = bias.to_dtype(y.dtype())?.reshape(((), y.dim(1)?, 1, 1))?;
                        y.broadcast_add(&bias)?
                    }
                    None => y,
                };
                more.map_or(Ok(y.clone()), |more| ops::add(&y, more))?
            }
            (false, None) => ops::conv2d(x, weight, bias, stride, padding)?,
            (false, Some(more)) => ops::conv2d_plus(x, weight, bias, more, stride, padding)?,
        };
        for delta in &self.deltas {
            y = delta.add_to_conv2d(&y, x, stride, padding)?;
        }
        Ok(y)
    }

    fn has_gains(&self) -> bool {
        self.outputs.is_some() || self.inputs.is_some()
    }

    /// `product` of `x`, and what the gains add to it; channels are along `dim`.
    fn with_gains(&self, x: &Tensor, dim: D, product: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let along = |gain: &Tensor, x: &Tensor| {
            let behind = match dim {
                D::Minus(3) => vec![1, 1],
                _ => vec![],
            };
            gain.to_dtype(x.dtype())?.reshape([&[gain.elem_count()], &behind[..]].concat())
        };
        let y = match (&self.outputs, &self.inputs) {
            (None, Some(inputs)) => return product(&x.broadcast_mul(&along(&(inputs + 1.0)?, x)?)?),
            _ => product(x)?,
        };
        let scaled = match &self.outputs {
            Some(outputs) => y.broadcast_mul(&along(&(outputs + 1.0)?, &y)?)?,
            None => y,
        };
        match &self.inputs {
            Some(inputs) => ops::add(&scaled, &product(&x.broadcast_mul(&along(inputs, x)?)?)?),
            None => Ok(scaled),
        }
    }
}

/// Several pairs as one: what goes in is read once for all of them. Each of their sums is what it is alone, and they are added
/// in the same order.
#[derive(Debug, Clone)]
struct Joined {
    /// `[ranks, in]`.
    down: Tensor,
    /// `[out, ranks]`.
    up: Tensor,
    /// `[ranks]` in f32.
    scales: Tensor,
}

impl Joined {
    /// The pairs of these; none where there are fewer than two, or the layer is a convolution.
    fn of(deltas: &[Delta]) -> Result<Option<Self>> {
        let pairs = deltas.iter().filter_map(Delta::pair).filter(|(down, ..)| down.rank() == 2);
        let pairs: Vec<Pair<'_>> = pairs.collect();
        if pairs.len() < 2 {
            return Ok(None);
        }
        let scales = pairs.iter().map(|(down, _, scale)| Ok(vec![*scale as f32; down.dim(0)?]));
        let scales: Vec<f32> = scales.collect::<Result<Vec<_>>>()?.concat();
        let downs: Vec<&Tensor> = pairs.iter().map(|(down, ..)| *down).collect();
        let ups: Vec<&Tensor> = pairs.iter().map(|(_, up, _)| *up).collect();
        Ok(Some(Self {
            scales: Tensor::new(scales, downs[0].device())?,
            down: Tensor::cat(&downs, 0)?,
            up: Tensor::cat(&ups, 1)?,
        }))
    }

    /// What lies between the matrices: `[.., ranks]`.
    fn low(&self, x: &Tensor) -> Result<Tensor> {
        let low = ops::linear(x, &self.down, None)?;
        low.broadcast_mul(&self.scales.to_dtype(low.dtype())?)
    }
}

/// A layer with a weight, of a network that is being changed.
pub struct LayerMut<'a> {
    /// diffusers' name in its component: `down_blocks.0.attentions.0.proj_in`.
    pub name: &'a str,
    /// `[out, in]`; of a convolution `[out, in, kernel, kernel]`.
    pub weight: &'a Tensor,
    /// What is changed in it.
    pub changes: &'a mut Changes,
}

/// What is shown the layers of a network.
pub type Visit<'v> = dyn FnMut(LayerMut<'_>) + 'v;

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::{super::delta::Factors, *};

    fn values(shape: &[usize], seed: usize) -> Tensor {
        let count = shape.iter().product::<usize>();
        let values = (0..count).map(|i| ((i * 37 + seed * 101) % 997) as f32 / 499.0 - 1.0);
        Tensor::from_vec(values.collect::<Vec<f32>>(), shape, &Device::Cpu).unwrap()
    }

    fn pair(rank: usize, scale: f64, dtype: DType) -> Delta {
        let (down, up) = (values(&[rank, 48], rank), values(&[70, rank], rank + 1));
        let (down, up) = (down.to_dtype(dtype).unwrap(), up.to_dtype(dtype).unwrap());
        Delta { factors: Factors::Pair { down, up }, scale }
    }

    #[test]
    fn pairs_that_are_added_together_give_the_bits_of_one_after_the_other() {
        let (weight, bias) = (values(&[70, 48], 1), values(&[70], 2));
        for (rows, dtype) in [(100, DType::F32), (100, DType::F16), (7, DType::F32), (3, DType::F32)] {
            let x = values(&[2, rows, 48], 3);
            let more = values(&[2, rows, 70], 4);
            for more in [None, Some(&more)] {
                for ranks in [&[4][..], &[4, 17], &[33, 1, 5]] {
                    let mut changes = Changes::default();
                    let mut expected = match more {
                        Some(more) => ops::linear_plus(&x, &weight, Some(&bias), more).unwrap(),
                        None => ops::linear(&x, &weight, Some(&bias)).unwrap(),
                    };
                    for (i, rank) in ranks.iter().enumerate() {
                        let delta = pair(*rank, 0.3 + i as f64 * 0.45, dtype);
                        expected = delta.add_to_linear(&expected, &x).unwrap();
                        changes.add(delta).unwrap();
                    }
                    let ours = changes.linear(&x, &weight, Some(&bias), more).unwrap();
                    let bits = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                    assert_eq!(bits(&ours), bits(&expected), "{rows} {dtype:?} {ranks:?} {}", more.is_some());
                }
            }
        }
    }

    #[test]
    fn lengths_of_rows_and_of_columns_change_the_weight() {
        let (x, weight) = (values(&[1, 9, 48], 1), values(&[70, 48], 2));
        let (rows, columns) = (values(&[70], 3), values(&[48], 4));
        let mut changes = Changes::default();
        changes.add_gain(&Gain::Outputs(rows.clone())).unwrap();
        changes.add_gain(&Gain::Inputs(columns.clone())).unwrap();
        let ours = changes.linear(&x, &weight, None, None).unwrap();
        let rows = ((rows - 1.0).unwrap()).reshape((70, 1)).unwrap();
        let more = (weight.broadcast_mul(&rows).unwrap()
            + weight.broadcast_mul(&(columns - 1.0).unwrap()).unwrap())
        .unwrap();
        let expected = ops::linear(&x, &(weight + more).unwrap(), None).unwrap();
        let difference = (ours - expected).unwrap().abs().unwrap().max_all().unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 1e-4, "{difference}");
    }
}
