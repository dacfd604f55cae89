//! Maps in bands beside the same maps whole.

use super::*;

const SHAPE: (usize, usize, usize, usize) = (2, 4, 9, 5);

fn map() -> Tensor {
    let count = SHAPE.0 * SHAPE.1 * SHAPE.2 * SHAPE.3;
    let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7).sin() + (i / 45) as f32).collect();
    Tensor::from_vec(values, SHAPE, &Device::Cpu).unwrap()
}

/// The same in bands of these rows.
fn banded(x: &Tensor, rows: &[usize]) -> Bands {
    let mut bands = Bands::of(x.narrow(2, 0, rows[0]).unwrap()).unwrap();
    for rows in &rows[1..] {
        bands.push(x.narrow(2, bands.height(), *rows).unwrap()).unwrap();
    }
    bands
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

fn assert_close(a: &Tensor, b: &Tensor) {
    assert_eq!(a.dims(), b.dims());
    for (a, b) in values(a).iter().zip(values(b)) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

#[test]
fn a_norm_over_bands_is_the_norm_over_the_whole_map() {
    let x = map();
    let of = |values: &[f32; 4]| Tensor::new(values, &Device::Cpu).unwrap();
    let (weight, bias) = (of(&[1.0, -2.0, 0.5, 3.0]), of(&[0.0, 1.0, -1.0, 0.2]));
    let expected = super::super::group_norm_silu(&x, &weight, &bias, 2, 1e-6).unwrap();
    for rows in [&[9][..], &[4, 5], &[1, 1, 7], &[2, 3, 3, 1]] {
        let bands = banded(&x, rows);
        let norm = bands.group_norm(&weight, &bias, 2, 1e-6, Some(Activation::Silu)).unwrap();
        let view = View { rows: 0..9, times: 1, columns: (0, 0), norm: Some(&norm) };
        assert_close(&bands.see(&view).unwrap().map, &expected);
        assert_close(&bands.see_plain(&view).unwrap().map, &expected);
    }
}

#[test]
fn a_map_that_is_not_cut_is_normalised_where_it_is_and_leaves_its_zeros_to_the_convolution() {
    let x = map().to_dtype(DType::F64).unwrap();
    let of = |values: &[f64; 4]| Tensor::new(values, &Device::Cpu).unwrap();
    let (weight, bias) = (of(&[1.0, -2.0, 0.5, 3.0]), of(&[0.0, 1.0, -1.0, 0.2]));
    let expected = super::super::group_norm_silu(&x, &weight, &bias, 2, 1e-6).unwrap();
    let bands = Bands::in_bands(x, WHOLE).unwrap();
    let norm = bands.group_norm(&weight, &bias, 2, 1e-6, Some(Activation::Silu)).unwrap();
    assert!(matches!(norm.of, Of::Map { .. }));
    let seen = bands.see(&View { norm: Some(&norm), ..View::around(&(0..9)) }).unwrap();
    assert_eq!(seen.padding, 1);
    assert_close(&seen.map.to_dtype(DType::F32).unwrap(), &expected.to_dtype(DType::F32).unwrap());
    // Where the zeros are not the same all around, they are there.
    let after = View { rows: 0..10, times: 1, columns: (0, 1), norm: None };
    let seen = bands.see(&after).unwrap();
    assert_eq!((seen.padding, seen.map.dims()), (0, &[2, 4, 10, 6][..]));
}

#[test]
fn a_view_is_the_map_grown_with_zeros_around_it() {
    let x = map();
    let bands = banded(&x, &[2, 3, 4]);
    for (times, rows) in [(1, -1..4), (1, 3..10), (1, -1..10), (2, -1..7), (2, 5..12), (2, 9..19)] {
        let grown = super::super::upsample_nearest(&x, 9 * times, 5 * times).unwrap();
        let padded = grown.pad_with_zeros(2, 1, 1).unwrap().pad_with_zeros(3, 2, 1).unwrap();
        let expected = padded.narrow(2, (rows.start + 1) as usize, rows.len()).unwrap();
        let view = View { rows: rows.clone(), times, columns: (2, 1), norm: None };
        for Seen { map: seen, padding } in [bands.see(&view).unwrap(), bands.see_plain(&view).unwrap()] {
            assert_eq!(padding, 0);
            assert_eq!(seen.dims(), expected.dims(), "{times} {rows:?}");
            assert_eq!(values(&seen), values(&expected), "{times} {rows:?}");
        }
    }
}

#[test]
fn what_is_forgotten_is_what_ends_before_and_the_rest_is_as_it_was() {
    let x = map();
    let mut bands = banded(&x, &[2, 3, 4]);
    bands.forget_before(4);
    assert_eq!((bands.bands.len(), bands.height()), (2, 9));
    let rest = bands.rows(4..7).unwrap();
    assert_eq!(values(&rest), values(&x.narrow(2, 4, 3).unwrap()));
    bands.forget_before(9);
    assert!(bands.bands.is_empty());
}

#[test]
fn a_map_is_cut_into_bands_of_some_pixels_or_of_one_row() {
    let cut = |pixels, height, width| {
        Bands::in_bands(map(), pixels).unwrap().cut(height, width).map(|rows| rows.len()).collect::<Vec<_>>()
    };
    assert_eq!(cut(20, 7, 9), [2, 2, 2, 1]);
    assert_eq!(cut(20, 3, 90), [1, 1, 1]);
    assert_eq!(cut(usize::MAX, 3, 90), [3]);
    assert_eq!(cut(100, 19, 10), [8, 8, 3]);
}
