//! The decoder's small mask in the size of a picture: enlarged twice, as the reference does it, by torch's bilinear
//! interpolation without aligned corners.

use super::fit::SIDE;

/// A plane of numbers, row by row.
struct Plane {
    values: Vec<f32>,
    width: usize,
    height: usize,
}

/// From the square's small mask `[low, low]` to the picture: to the square, then the part of it that the picture takes
/// (`fitted`, width and height) to the picture's `size`.
pub fn to_picture(small: &[f32], low: usize, fitted: (u32, u32), size: (u32, u32)) -> Vec<f32> {
    let side = SIDE as usize;
    let small = Plane { values: small.to_vec(), width: low, height: low };
    let square = resize(&small, side, side);
    let (width, height) = (fitted.0 as usize, fitted.1 as usize);
    let values = square.values.chunks_exact(side).take(height).flat_map(|row| &row[..width]);
    let part = Plane { values: values.copied().collect(), width, height };
    resize(&part, size.0 as usize, size.1 as usize).values
}

fn resize(from: &Plane, width: usize, height: usize) -> Plane {
    let columns = places(from.width, width);
    let rows = places(from.height, height);
    let mut values = Vec::with_capacity(width * height);
    for (above, below, down) in rows {
        let row = |at: usize| &from.values[at * from.width..][..from.width];
        let (above, below) = (row(above), row(below));
        for &(left, right, over) in &columns {
            let across = |row: &[f32]| row[left] * (1.0 - over) + row[right] * over;
            values.push(across(above) * (1.0 - down) + across(below) * down);
        }
    }
    Plane { values, width, height }
}

/// For each of `to` places the two of `from` that it lies between, and how far it is on the way to the second.
fn places(from: usize, to: usize) -> Vec<(usize, usize, f32)> {
    let scale = from as f32 / to as f32;
    let place = |at: usize| {
        let exact = ((at as f32 + 0.5) * scale - 0.5).max(0.0);
        let before = (exact as usize).min(from - 1);
        (before, (before + 1).min(from - 1), exact - before as f32)
    };
    (0..to).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_torch() {
        // torch.nn.functional.interpolate(torch.tensor([[[[0., 1.], [2., 3.]]]]), (3, 4), mode="bilinear")
        let from = Plane { values: vec![0.0, 1.0, 2.0, 3.0], width: 2, height: 2 };
        let resized = resize(&from, 4, 3).values;
        let expected = [0.0, 0.25, 0.75, 1.0, 1.0, 1.25, 1.75, 2.0, 2.0, 2.25, 2.75, 3.0];
        assert!(
            resized.iter().zip(expected).all(|(ours, theirs)| (ours - theirs).abs() < 1e-6),
            "{resized:?}"
        );
    }

    #[test]
    fn what_the_picture_does_not_take_of_the_square_is_left_out() {
        // The lower half of the square is another's.
        let small: Vec<f32> = (0..64).map(|at| if at < 32 { 1.0 } else { -1.0 }).collect();
        let picture = to_picture(&small, 8, (1024, 256), (16, 4));
        assert_eq!(picture, [1.0; 64]);
    }
}
