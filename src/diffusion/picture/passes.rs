//! Which pictures share a pass through the network.

use crate::diffusion::DiffusionError;

/// Samples times latent pixels (height times width) of a pass that pictures share on the CPU; a picture of more has a
/// pass of its own. What is gained by sharing is that weights are read once, and that is soon little: at 4096, one
/// sample of 512x512 pixels, a step computes for much longer than it reads. Memory for activations grows with it.
pub const LATENT_PIXELS_ON_CPU: usize = 4096;

/// What decides with which others a picture shares a pass.
pub struct Fit<K> {
    /// The same for all of a pass.
    pub key: K,
    /// What it adds to the size of its pass.
    pub size: usize,
}

/// The passes of `pictures`, as indices: each in one, with others of the same key in their order, as long as a pass is not
/// larger than `most`. One that is larger by itself is alone.
pub fn passes<K: PartialEq>(pictures: impl Iterator<Item = Fit<K>>, most: usize) -> Vec<Vec<usize>> {
    let mut passes: Vec<(Fit<K>, Vec<usize>)> = Vec::new();
    for (index, picture) in pictures.enumerate() {
        let fits = |pass: &Fit<K>| pass.key == picture.key && pass.size.saturating_add(picture.size) <= most;
        match passes.iter_mut().find(|(pass, _)| fits(pass)) {
            Some((pass, members)) => {
                pass.size += picture.size;
                members.push(index);
            }
            None => passes.push((picture, vec![index])),
        }
    }
    passes.into_iter().map(|(_, members)| members).collect()
}

/// Puts all of `jobs` through `pass`, in the passes that [`passes`] says.
pub fn in_passes<J, K: PartialEq>(
    jobs: Vec<&mut J>,
    most: usize,
    fit: impl Fn(&J) -> Fit<K>,
    mut pass: impl FnMut(&mut [&mut J]) -> Result<(), DiffusionError>,
) -> Result<(), DiffusionError> {
    let passes = passes(jobs.iter().map(|job| fit(job)), most);
    let mut jobs: Vec<Option<&mut J>> = jobs.into_iter().map(Some).collect();
    for members in passes {
        let mut together: Vec<&mut J> = members.into_iter().filter_map(|index| jobs[index].take()).collect();
        pass(&mut together)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tens are one key, units the sizes.
    fn fit(job: &i32) -> Fit<i32> {
        Fit { key: job / 10, size: (job % 10) as usize }
    }

    fn seen(most: usize) -> Vec<Vec<i32>> {
        let mut jobs = [1, 12, 3, 14, 5, 1];
        let mut seen = Vec::new();
        in_passes(jobs.iter_mut().collect(), most, fit, |together| {
            seen.push(together.iter().map(|job| **job).collect());
            Ok(())
        })
        .unwrap();
        seen
    }

    #[test]
    fn pictures_that_fit_share_a_pass_and_each_gets_one() {
        assert_eq!(seen(usize::MAX), [vec![1, 3, 5, 1], vec![12, 14]]);
    }

    #[test]
    fn a_pass_is_not_larger_than_the_most_unless_one_picture_is() {
        assert_eq!(seen(5), [vec![1, 3, 1], vec![12], vec![14], vec![5]]);
        assert_eq!(seen(4), [vec![1, 3], vec![12], vec![14], vec![5], vec![1]]);
        assert!(seen(0).iter().all(|pass| pass.len() == 1));
    }
}
