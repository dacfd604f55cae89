//! What the shapes of a file's tensors tell.

use serde_json::Value;

use crate::diffusion::{DiffusionError, checkpoint::MappedFile};

/// Channels of a head in every CLIP, and in the UNets of Stable Diffusion 2 and XL.
const HEAD_CHANNELS: usize = 64;
/// Groups of the norms.
const GROUPS: usize = 32;

/// The shape of a tensor of so many dimensions.
///
/// # Errors
/// When it is missing or has another number of dimensions.
pub fn shape<'a>(file: &'a MappedFile, key: &str, dimensions: usize) -> Result<&'a [usize], DiffusionError> {
    let found = file.shape(key);
    found.filter(|shape| shape.len() == dimensions).ok_or_else(|| DiffusionError::Config {
        file: file.path().to_owned(),
        key: key.to_owned(),
        expected: format!("a tensor of {dimensions} dimensions"),
        found: found.map_or("none".into(), |shape| format!("shape {shape:?}")),
    })
}

/// Counts from 0 as long as the file has the tensor.
pub fn count(file: &MappedFile, key: impl Fn(usize) -> String) -> usize {
    (0..).take_while(|i| file.has(&key(*i))).count()
}

/// Groups of norms over these channels: 32, or for small networks the greatest power of two that divides all.
pub fn groups(channels: &[usize]) -> usize {
    let shift = channels.iter().map(|channels| channels.trailing_zeros()).min().unwrap_or(0);
    GROUPS.min(1_usize.checked_shl(shift).unwrap_or(GROUPS))
}

/// Attention heads of a layer of that width.
pub fn heads(width: usize) -> usize {
    (width / HEAD_CHANNELS).max(1)
}

/// Puts values over those of a configuration.
pub fn put(over: &mut Value, values: Value) {
    if let (Value::Object(over), Value::Object(values)) = (over, values) {
        over.extend(values);
    }
}

#[cfg(test)]
mod tests {
    use super::{groups, heads};

    #[test]
    fn norms_have_32_groups_where_all_channels_allow_it() {
        assert_eq!(groups(&[320, 640, 1280, 1280]), 32);
        assert_eq!(groups(&[384, 768, 1536, 1536]), 32);
        assert_eq!(groups(&[8, 16]), 8);
        assert_eq!(groups(&[0]), 32);
        assert_eq!(groups(&[]), 1);
    }

    #[test]
    fn heads_have_64_channels() {
        assert_eq!([320, 640, 1280].map(heads), [5, 10, 20]);
        assert_eq!([768, 1024, 4].map(heads), [12, 16, 1]);
    }
}
