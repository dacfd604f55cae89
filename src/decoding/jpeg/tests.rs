use image::{Rgb, RgbImage, codecs::jpeg::JpegEncoder};
use proptest::prelude::*;

use super::*;

/// One of each kind, by Pillow; `tests/data/pictures/make.py` writes them.
const FILES: [(&str, &[u8]); 6] = [
    ("baseline", include_bytes!("../../../tests/data/pictures/baseline.jpg")),
    ("progressive", include_bytes!("../../../tests/data/pictures/progressive.jpg")),
    ("restarts", include_bytes!("../../../tests/data/pictures/restarts.jpg")),
    ("progressive-restarts", include_bytes!("../../../tests/data/pictures/progressive-restarts.jpg")),
    ("grey", include_bytes!("../../../tests/data/pictures/grey.jpg")),
    ("cmyk", include_bytes!("../../../tests/data/pictures/cmyk.jpg")),
];

fn ours(width: u32, height: u32, quality: u8) -> Vec<u8> {
    let image = RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x * 37 % 256) as u8, (x * y % 256) as u8, (y * y * 3 % 256) as u8])
    });
    let mut bytes = vec![];
    JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(&image).unwrap();
    bytes
}

/// Where the data of the first scan begins.
fn data_of(file: &[u8]) -> usize {
    let at = file.windows(2).position(|two| two == [0xff, 0xda]).unwrap();
    at + 2 + usize::from(file[at + 3])
}

#[test]
fn a_whole_jpeg_is_whole_with_and_without_its_end_mark() {
    for (name, file) in FILES {
        assert_eq!(check(file), Ok(()), "{name}");
        assert_eq!(check(&file[..file.len() - 2]), Ok(()), "{name}");
        assert_eq!(check(&file[..file.len() - 1]), Ok(()), "{name}");
        assert_eq!(check(&[file, b"what a camera adds"].concat()), Ok(()), "{name}");
    }
}

#[test]
fn a_jpeg_that_is_cut_anywhere_is_cut() {
    for (name, file) in FILES {
        for length in 2..file.len() - 2 {
            assert!(check(&file[..length]).is_err(), "{name} cut to {length} of {} bytes", file.len());
        }
        let half = file.len() / 2;
        assert_eq!(check(&file[..half]), Err(JpegDamage::Cut), "{name}");
        // What tools write that end a broken download properly.
        let ended = [&file[..half], b"\xff\xd9"].concat();
        assert!(check(&ended).is_err(), "{name} with an end mark in its middle");
    }
}

/// How many damaged files of how many are refused.
fn refused(damaged: impl Iterator<Item = Vec<u8>>) -> (usize, usize) {
    let found: Vec<bool> = damaged.map(|file| check(&file).is_err()).collect();
    (found.iter().filter(|refused| **refused).count(), found.len())
}

fn with_zeros(file: &[u8], at: usize, length: usize) -> Vec<u8> {
    [&file[..at], &vec![0; length], &file[at + length..]].concat()
}

/// Zeros are codes too, and a few of them may stand for as many blocks as were there: of 64, half are noticed in the worst of
/// these files (52 of 108), of 200 seven in eight (126 of 145).
#[test]
fn zeros_in_the_middle_are_mostly_noticed() {
    for (name, file) in FILES {
        for (length, percent) in [(64, 45), (200, 85)] {
            let places = (data_of(file)..file.len() - length - 2).step_by(17);
            let (noticed, places) = refused(places.map(|at| with_zeros(file, at, length)));
            assert!(noticed * 100 >= places * percent, "{name}: {noticed} of {places} with {length} zeros");
        }
        let half = file.len() / 2;
        assert!(check(&with_zeros(file, half, file.len() - half)).is_err(), "{name} with zeros to its end");
    }
}

#[test]
fn a_lost_block_of_a_disk_is_noticed() {
    let file = ours(640, 480, 90);
    let places = || (1024..file.len() - 1024).step_by(4096);
    let lost = |at: usize| [&file[..at], &file[at + 512..]].concat();
    for (what, (noticed, places)) in [
        ("zeros", refused(places().map(|at| with_zeros(&file, at, 512)))),
        ("gap", refused(places().map(lost))),
    ] {
        // 117 and 114 of 117.
        assert!(places > 100 && noticed * 100 >= places * 95, "{what}: {noticed} of {places}");
    }
}

#[test]
fn a_table_without_values_is_noticed() {
    let (_, file) = FILES[0];
    let at = file.windows(2).position(|two| two == [0xff, 0xdb]).unwrap();
    let mut damaged = file.to_vec();
    damaged[at + 5..at + 40].fill(0);
    assert!(matches!(check(&damaged), Err(JpegDamage::Broken(_))));
}

#[test]
fn a_scan_repeated_without_end_is_refused() {
    let (_, file) = FILES[4];
    let scan = file.windows(2).position(|two| two == [0xff, 0xda]).unwrap();
    let many = [&file[..scan], &file[scan..file.len() - 2].repeat(101)].concat();
    assert_eq!(check(&many), Err(JpegDamage::Broken("it has more than 100 scans")));
}

#[test]
fn kinds_that_the_decoder_does_not_read_are_left_to_it() {
    let (_, file) = FILES[0];
    let at = file.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
    for kind in [0xc3, 0xc9, 0xca] {
        let mut other = file.to_vec();
        other[at + 1] = kind;
        assert_eq!(check(&other), Ok(()), "{kind:x}");
    }
}

proptest! {
    #[test]
    fn whatever_the_bytes_there_is_an_answer(
        which in 0..FILES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut file = FILES[which].1.to_vec();
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let _ = check(&file);
        file.truncate(cut.index(file.len()));
        let _ = check(&file);
    }

    #[test]
    fn what_an_encoder_writes_is_whole(width in 1u32..70, height in 1u32..70, quality in 1u8..=100) {
        let file = ours(width, height, quality);
        prop_assert_eq!(check(&file), Ok(()));
        prop_assert!(check(&file[..file.len() - 3]).is_err());
    }
}
