//! How much memory there is, and how much of a limit is left for weights.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use super::{ModelError, Needs};
use crate::contract::limits::MIN_SIDE;

/// Bytes of a worker without models and pictures: the program, connections, tokenizers, input pictures, and what the
/// system's allocator keeps.
const WORKER: u64 = 192 << 20;
/// Pixels of the smallest picture there is.
const LEAST_PIXELS: u64 = MIN_SIDE as u64 * MIN_SIDE as u64;

/// A limit of all the memory that a worker takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes.
    pub bytes: u64,
    /// Pixels of the largest picture that jobs may ask for.
    pub max_pixels: u64,
    /// Pictures that are computed at the same time.
    pub pictures: u64,
}

impl MemoryLimit {
    /// Bytes that are kept free of weights for the largest picture of such a model.
    ///
    /// # Errors
    /// When the model's weights do not fit beside it.
    pub(super) fn reserve(&self, model: &str, needs: Needs) -> Result<u64, ModelError> {
        let pictures = needs.activations.bytes(self.max_pixels).saturating_mul(self.pictures);
        let beside = pictures.saturating_add(WORKER);
        if needs.weights.saturating_add(beside) <= self.bytes {
            return Ok(beside);
        }
        let left = self.bytes.checked_sub(WORKER).and_then(|left| left.checked_sub(needs.weights));
        Err(ModelError::OverLimit {
            model: model.to_owned(),
            weights: needs.weights,
            beside,
            limit: self.bytes,
            pixels: self.max_pixels,
            possible: left
                .and_then(|left| needs.activations.pixels(left / self.pictures.max(1)))
                .filter(|pixels| (LEAST_PIXELS..self.max_pixels).contains(pixels)),
        })
    }
}

/// Bytes that the process can still take: what the system has available, or less where a control group (a container's
/// limit) allows less.
pub(super) fn available() -> u64 {
    let kind = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(kind);
    let group = system.cgroup_limits().map(|limits| (limits.total_memory, limits.rss));
    smaller(system.available_memory(), group)
}

/// `group` is the limit of a control group and what its processes use of it. Files that the system keeps in memory for
/// it count towards the limit but give way, so they are not counted.
fn smaller(system: u64, group: Option<(u64, u64)>) -> u64 {
    match group {
        Some((limit, used)) => system.min(limit.saturating_sub(used)),
        None => system,
    }
}

/// Bytes as a person reads them: `3.2 GiB`, with the number itself.
pub(super) fn human(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => format!("{:.1} {unit} ({bytes} bytes)", bytes as f64 / size as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_a_control_group_counts() {
        assert_eq!(smaller(100, None), 100);
        assert_eq!(smaller(100, Some((60, 20))), 40);
        assert_eq!(smaller(100, Some((60, 70))), 0);
        assert_eq!(smaller(100, Some((500, 20))), 100);
    }

    #[test]
    fn this_machine_has_some_memory_and_not_without_end() {
        let bytes = available();
        assert!((1 << 20..1 << 50).contains(&bytes), "{bytes}");
    }

    #[test]
    fn sizes_are_told_in_both_ways() {
        assert_eq!(human(3_435_973_837), "3.2 GiB (3435973837 bytes)");
        assert_eq!(human(1023), "1023 bytes");
    }
}
