use std::io::Cursor;

use image::{ImageEncoder, codecs::jpeg::JpegEncoder, codecs::png::PngEncoder, codecs::webp::WebPEncoder};
use proptest::prelude::*;

use super::*;

/// One of each kind, by Pillow; `tests/data/pictures/make.py` writes them.
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_bytes!(concat!("../../tests/data/pictures/", $name)).as_slice())),*]
    };
}

const FILES: [(&str, &[u8]); 16] = files![
    "alpha.webp",
    "animated.png",
    "animated.webp",
    "baseline.jpg",
    "cmyk.jpg",
    "deep.png",
    "grey-alpha.png",
    "grey.jpg",
    "interlaced.png",
    "lossless.webp",
    "lossy.webp",
    "palette.png",
    "progressive-restarts.jpg",
    "progressive.jpg",
    "restarts.jpg",
    "rgb.png",
];

const LIMIT: u64 = 1 << 22;

fn picture_of(bytes: &[u8]) -> Result<RgbImage, PictureError> {
    read_picture("init_image", bytes, LIMIT, &mut vec![])
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(vec![]);
    RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, (x * y) as u8]))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// A PNG whose header says `side` x `side`; checksums are right.
fn bomb(side: u32) -> Vec<u8> {
    let mut bytes = vec![];
    let mut encoder = png::Encoder::new(&mut bytes, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    let mut writer = encoder.write_header().unwrap();
    writer.write_chunk(png::chunk::IDAT, &[0x78, 0x9c, 0x63, 0, 0, 0, 1, 0, 1]).unwrap();
    drop(writer);
    bytes
}

#[test]
fn pictures_of_every_kind_are_read() {
    for (name, file) in FILES {
        let picture = picture_of(file).unwrap_or_else(|error| panic!("{name}: {error}"));
        let small = name.ends_with(".png") || name == "lossless.webp";
        let size = match (name, small) {
            ("animated.png", _) | (_, true) => (80, 64),
            _ => (104, 72),
        };
        assert_eq!(picture.dimensions(), size, "{name}");
        let mut warnings = vec![];
        let has_alpha = ["alpha.webp", "grey-alpha.png", "palette.png"].contains(&name);
        read_picture("init_image", file, LIMIT, &mut warnings).unwrap();
        assert_eq!(warnings.iter().any(|warning| warning.contains("laid on white")), has_alpha, "{name}");
        assert_eq!(warnings.len(), usize::from(has_alpha), "{name}: {warnings:?}");
    }
    // By Pillow: the first picture of the animation, and what is behind the interlace.
    let of = |wanted: &str| picture_of(FILES.iter().find(|(name, _)| *name == wanted).unwrap().1).unwrap();
    assert_eq!(of("animated.png"), of("rgb.png"));
    assert_eq!(of("interlaced.png"), of("rgb.png"));
    assert_eq!(of("lossless.webp"), of("rgb.png"));
}

#[test]
fn a_picture_that_is_cut_is_refused_whatever_its_kind() {
    for (name, file) in FILES {
        // What is behind the picture: end marks and checksums, and the other pictures of an animated PNG.
        let needed = match name {
            "animated.png" => file.windows(4).position(|four| four == b"fdAT").unwrap() - 60,
            name if name.ends_with(".png") => file.len() - 24,
            _ => file.len() - 2,
        };
        let cuts = (1..20).map(|part| needed * part / 20).chain([needed - 9, needed - 1]);
        for length in cuts {
            let error = picture_of(&file[..length]).expect_err(&format!("{name} cut to {length}"));
            assert_eq!(error.code(), ErrorCode::ImageInvalid, "{name}: {error}");
            assert!(error.to_string().starts_with("`init_image`: "), "{error}");
            assert!(!error.is_of_the_limit());
        }
    }
}

#[test]
fn zeros_in_a_file_with_checksums_are_noticed() {
    for (name, file) in FILES.iter().filter(|(name, _)| name.ends_with(".png")) {
        let at = file.windows(4).position(|four| four == b"IDAT").unwrap() + 100;
        let mut damaged = file.to_vec();
        damaged[at..at + 20].fill(0);
        assert_eq!(picture_of(&damaged).unwrap_err().code(), ErrorCode::ImageInvalid, "{name}");
    }
}

#[test]
fn a_palette_with_a_transparent_colour_has_alpha() {
    let (_, palette) = FILES.iter().find(|(name, _)| *name == "palette.png").unwrap();
    let error = read_mask("mask_image", palette, LIMIT, &mut vec![]).unwrap_err();
    assert!(matches!(error, PictureError::NoMask { .. }), "{error}");
    let (_, grey) = FILES.iter().find(|(name, _)| *name == "grey-alpha.png").unwrap();
    let mut warnings = vec![];
    let mask = read_mask("mask_image", grey, LIMIT, &mut warnings).unwrap();
    assert_eq!(mask.get_pixel(0, 0).0, [0], "transparent is kept");
    assert!(warnings[0].contains("laid on black"), "{warnings:?}");
}

#[test]
fn a_bomb_is_refused_by_its_header() {
    let error = picture_of(&bomb(65_535)).unwrap_err();
    assert!(matches!(error, PictureError::Size { width: 65_535, .. }), "{error}");
}

#[test]
fn what_is_no_picture_is_refused() {
    for (bytes, says) in [
        (&b""[..], "empty"),
        (b"nonsense", "none of these"),
        (b"GIF89a\x01\0\x01\0\0\0\0", "a GIF picture"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "an AVIF picture"),
    ] {
        let error = picture_of(bytes).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ImageInvalid);
        assert!(error.to_string().contains(says), "{error}");
    }
    for (width, height) in [(63, 64), (64, 2056), (2048, 2049)] {
        assert!(matches!(picture_of(&png(width, height)), Err(PictureError::Size { .. })));
    }
}

/// EXIF with an orientation, as cameras write it: little-endian, and some with a mark before it.
fn exif(orientation: u8, has_mark: bool) -> Vec<u8> {
    let mut exif = if has_mark { b"Exif\0\0".to_vec() } else { vec![] };
    exif.extend(b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0");
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    exif
}

/// Where EXIF's orientation puts a pixel of a picture of `width` x `height`.
fn turned(orientation: u8, (x, y): (u32, u32), (width, height): (u32, u32)) -> (u32, u32) {
    let (right, down) = (width - 1 - x, height - 1 - y);
    match orientation {
        2 => (right, y),
        3 => (right, down),
        4 => (x, down),
        5 => (y, x),
        6 => (down, x),
        7 => (down, right),
        8 => (y, right),
        _ => (x, y),
    }
}

fn encoded(kind: u8, image: &RgbImage, exif: Vec<u8>) -> Vec<u8> {
    let (mut bytes, (width, height)) = (vec![], image.dimensions());
    let rgb = image::ExtendedColorType::Rgb8;
    match kind {
        0 => {
            let mut encoder = PngEncoder::new(&mut bytes);
            encoder.set_exif_metadata(exif).unwrap();
            encoder.write_image(image, width, height, rgb).unwrap();
        }
        1 => {
            let mut encoder = WebPEncoder::new_lossless(&mut bytes);
            encoder.set_exif_metadata(exif).unwrap();
            encoder.write_image(image, width, height, rgb).unwrap();
        }
        _ => {
            let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 100);
            encoder.set_exif_metadata(exif).unwrap();
            encoder.write_image(image, width, height, rgb).unwrap();
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_picture_of_any_kind_size_and_orientation_comes_out_upright(
        kind in 0u8..3, orientation in 1u8..=8, width in 64u32..90, height in 64u32..90, mark in any::<bool>(),
    ) {
        // A corner has its own colour; eight pixels, so that JPEG keeps it.
        let image = RgbImage::from_fn(width, height, |x, y| match x < 8 && y < 8 {
            true => image::Rgb([250, 250, 250]),
            false => image::Rgb([9, 9, 9]),
        });
        // JPEG's encoder writes the mark itself.
        let bytes = encoded(kind, &image, exif(orientation, mark && kind < 2));
        let read = picture_of(&bytes).unwrap();
        let size = if orientation > 4 { (height, width) } else { (width, height) };
        prop_assert_eq!(read.dimensions(), size);
        for (x, y) in [(3, 3), (width - 4, 3), (3, height - 4), (width - 4, height - 4)] {
            let (to_x, to_y) = turned(orientation, (x, y), (width, height));
            let (found, wanted) = (read.get_pixel(to_x, to_y).0[0], image.get_pixel(x, y).0[0]);
            prop_assert!(found.abs_diff(wanted) < 12, "{},{}: {} and not {}", x, y, found, wanted);
        }
    }

    #[test]
    fn a_damaged_file_of_any_kind_is_read_or_refused(
        which in 0..FILES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..16),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut file = FILES[which].1.to_vec();
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        if let Err(error) = picture_of(&file) {
            prop_assert!(error.to_string().starts_with("`init_image`: "), "{}", error);
            prop_assert!(!error.code().retryable(), "{}", error);
        }
        let _ = read_mask("mask_image", &file, LIMIT, &mut vec![]);
    }
}
