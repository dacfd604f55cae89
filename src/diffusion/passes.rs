//! Which pictures share a pass through the network.

use super::DiffusionError;

/// Puts all of `jobs` through `pass`, those with the same `key` together, in the order of the first of each. `alone`: one
/// by one, so that a picture's bits do not depend on its company.
pub fn in_passes<J, K: PartialEq>(
    mut jobs: Vec<&mut J>,
    alone: bool,
    key: impl Fn(&J) -> K,
    mut pass: impl FnMut(&mut [&mut J]) -> Result<(), DiffusionError>,
) -> Result<(), DiffusionError> {
    while let Some(first) = jobs.first() {
        let wanted = key(first);
        let mut taken = 0;
        let (mut together, rest): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| {
            let fits = key(job) == wanted && !(alone && taken > 0);
            taken += usize::from(fits);
            fits
        });
        pass(&mut together)?;
        jobs = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(alone: bool) -> Vec<Vec<i32>> {
        let mut jobs = [1, 12, 3, 14, 5];
        let mut seen = Vec::new();
        in_passes(
            jobs.iter_mut().collect(),
            alone,
            |job| *job > 10,
            |together| {
                seen.push(together.iter().map(|job| **job).collect());
                Ok(())
            },
        )
        .unwrap();
        seen
    }

    #[test]
    fn pictures_that_fit_share_a_pass_and_each_gets_one() {
        assert_eq!(passes(false), [vec![1, 3, 5], vec![12, 14]]);
    }

    #[test]
    fn alone_means_one_by_one() {
        assert!(passes(true).iter().all(|together| together.len() == 1));
        assert_eq!(passes(true).len(), 5);
    }
}
