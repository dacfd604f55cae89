use image::{
    ImageEncoder, Rgb, codecs::jpeg::JpegEncoder, codecs::png::PngEncoder, codecs::webp::WebPEncoder,
};
use proptest::prelude::*;

use crate::decoding::{read_mask, read_picture};

use super::*;

const SIDE: u32 = 64;
const COLOUR: [u8; 3] = [100, 150, 200];

/// A flat PNG with these chunks before its pixels.
fn png_with(
    colour: png::ColorType,
    depth: png::BitDepth,
    pixel: &[u8],
    chunks: &[(&[u8; 4], Vec<u8>)],
) -> Vec<u8> {
    let mut bytes = vec![];
    let mut encoder = png::Encoder::new(&mut bytes, SIDE, SIDE);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    let mut writer = encoder.write_header().unwrap();
    for (name, data) in chunks {
        writer.write_chunk(png::chunk::ChunkType(**name), data).unwrap();
    }
    writer.write_image_data(&pixel.repeat((SIDE * SIDE) as usize)).unwrap();
    writer.finish().unwrap();
    bytes
}

fn rgb_png(chunks: &[(&[u8; 4], Vec<u8>)]) -> Vec<u8> {
    png_with(png::ColorType::Rgb, png::BitDepth::Eight, &COLOUR, chunks)
}

fn numbers(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

/// The chunk that names `profile`.
fn iccp(profile: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut deflate = flate2::write::ZlibEncoder::new(b"profile\0\0".to_vec(), flate2::Compression::fast());
    deflate.write_all(profile).unwrap();
    deflate.finish().unwrap()
}

/// The colour in the middle, and what is said.
fn read(bytes: &[u8]) -> ([u8; 3], Vec<String>) {
    let mut warnings = vec![];
    let picture = read_picture("init_image", bytes, 1 << 22, &mut warnings).unwrap();
    (picture.get_pixel(SIDE / 2, SIDE / 2).0, warnings)
}

fn assert_near(found: [u8; 3], wanted: [f64; 3], within: f64) {
    for (found, wanted) in found.into_iter().zip(wanted) {
        assert!((f64::from(found) - wanted).abs() <= within, "{found} and not {wanted}");
    }
}

#[test]
fn a_profile_is_converted_in_every_kind_of_file() {
    let image = RgbImage::from_pixel(SIDE, SIDE, Rgb(COLOUR));
    // By the published primaries and curves of these spaces.
    for (profile, name, wanted) in [
        (ColorProfile::new_display_p3(), "Display P3", [83.47, 151.66, 204.6]),
        (ColorProfile::new_adobe_rgb(), "Adobe RGB", [65.98, 151.41, 203.1]),
    ] {
        let icc = profile.encode().unwrap();
        let (mut jpeg, mut webp, mut png) = (vec![], vec![], vec![]);
        let mut encoder = JpegEncoder::new_with_quality(&mut jpeg, 100);
        encoder.set_icc_profile(icc.clone()).unwrap();
        encoder.encode_image(&image).unwrap();
        let mut encoder = WebPEncoder::new_lossless(&mut webp);
        encoder.set_icc_profile(icc.clone()).unwrap();
        encoder.write_image(&image, SIDE, SIDE, image::ExtendedColorType::Rgb8).unwrap();
        let mut encoder = PngEncoder::new(&mut png);
        encoder.set_icc_profile(icc).unwrap();
        encoder.write_image(&image, SIDE, SIDE, image::ExtendedColorType::Rgb8).unwrap();
        for (kind, bytes, within) in [("jpeg", jpeg, 2.0), ("webp", webp, 1.0), ("png", png, 1.0)] {
            let (found, warnings) = read(&bytes);
            assert_near(found, wanted, within);
            assert!(
                warnings.len() == 1
                    && warnings[0].starts_with("init_image: its colours are converted from `"),
                "{kind}: {warnings:?}"
            );
            assert!(warnings[0].contains(name), "{kind}: {warnings:?}");
            let mut said = vec![];
            let mask = read_mask("mask_image", &bytes, 1 << 22, &mut said).unwrap();
            let grey = mask.get_pixel(9, 9).0[0];
            assert!((141..=145).contains(&grey) && said.is_empty(), "{grey}: a mask is read as it stands");
        }
    }
}

#[test]
fn what_is_srgb_in_any_words_stays_as_it_is() {
    let srgb = ColorProfile::new_srgb().encode().unwrap();
    for chunks in [
        vec![],
        vec![(b"iCCP", iccp(&srgb))],
        vec![(b"gAMA", numbers(&[45_455]))],
        vec![(b"gAMA", numbers(&[45_000]))],
        vec![(b"sRGB", vec![0]), (b"gAMA", numbers(&[100_000]))],
        vec![(b"cICP", vec![1, 13, 0, 1])],
        vec![
            (b"gAMA", numbers(&[45_455])),
            (b"cHRM", numbers(&[31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000])),
        ],
    ] {
        assert_eq!(read(&rgb_png(&chunks)), (COLOUR, vec![]), "{:?}", chunks.first().map(|chunk| chunk.0));
    }
}

#[test]
fn gamma_and_primaries_of_a_png_are_converted() {
    let p3 = numbers(&[31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000]);
    for (chunks, wanted) in [
        (vec![(b"gAMA", numbers(&[100_000]))], [168.11, 201.64, 229.1]),
        (vec![(b"cHRM", p3.clone())], [83.47, 151.66, 204.6]),
        (vec![(b"gAMA", numbers(&[100_000])), (b"cHRM", p3)], [159.28, 202.89, 232.06]),
        (vec![(b"cICP", vec![12, 13, 0, 1])], [83.47, 151.66, 204.6]),
    ] {
        let (found, warnings) = read(&rgb_png(&chunks));
        assert_near(found, wanted, 1.0);
        assert!(warnings.len() == 1 && warnings[0].contains("converted from"), "{warnings:?}");
    }
}

#[test]
fn grey_and_deep_pictures_are_converted_too() {
    let (linear_grey, linear) = (ColorProfile::new_gray_with_gamma(1.0), numbers(&[100_000]));
    let linear_grey = iccp(&linear_grey.encode().unwrap());
    let (eight, sixteen) = (png::BitDepth::Eight, png::BitDepth::Sixteen);
    for (colour, depth, pixel, chunk) in [
        (png::ColorType::Grayscale, eight, vec![128], (b"iCCP", linear_grey.clone())),
        (png::ColorType::GrayscaleAlpha, eight, vec![128, 255], (b"iCCP", linear_grey.clone())),
        (png::ColorType::Grayscale, sixteen, vec![128, 128], (b"iCCP", linear_grey)),
        (png::ColorType::Grayscale, eight, vec![128], (b"gAMA", linear.clone())),
        (png::ColorType::Rgb, sixteen, [128; 6].to_vec(), (b"gAMA", linear.clone())),
        (png::ColorType::Rgba, sixteen, [vec![128; 6], vec![255; 2]].concat(), (b"gAMA", linear.clone())),
        (png::ColorType::Rgba, eight, vec![128, 128, 128, 255], (b"gAMA", linear)),
    ] {
        let (found, warnings) = read(&png_with(colour, depth, &pixel, &[chunk]));
        assert_near(found, [187.84; 3], 1.0);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }
    // Sixteen bits: what eight would lose.
    let dark = png_with(png::ColorType::Rgb, sixteen, &[0, 200].repeat(3), &[(b"gAMA", numbers(&[100_000]))]);
    assert_near(read(&dark).0, [9.96; 3], 1.0);
}

#[test]
fn alpha_is_no_colour() {
    let pixel = [COLOUR.to_vec(), vec![102]].concat();
    let bytes =
        png_with(png::ColorType::Rgba, png::BitDepth::Eight, &pixel, &[(b"cICP", vec![12, 13, 0, 1])]);
    let (found, warnings) = read(&bytes);
    let white = |value: f64| value * 0.4 + 255.0 * 0.6;
    assert_near(found, [83.47, 151.66, 204.6].map(white), 1.0);
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}

#[test]
fn a_profile_that_cannot_be_used_is_said_and_left_out() {
    let p3 = ColorProfile::new_display_p3().encode().unwrap();
    let mut cmyk = p3.clone();
    cmyk[16..20].copy_from_slice(b"CMYK");
    let grey = ColorProfile::new_gray_with_gamma(1.0).encode().unwrap();
    for (chunk, says) in [
        ((b"iCCP", iccp(b"nonsense")), "cannot be read"),
        ((b"iCCP", iccp(&p3[..200])), "cannot be read"),
        ((b"iCCP", iccp(&cmyk)), "CMYK"),
        ((b"iCCP", iccp(&grey)), "does not fit"),
        ((b"gAMA", numbers(&[1])), "cannot be read"),
        ((b"cHRM", numbers(&[31_270, 0, 0, 0, 0, 0, 0, 0])), "cannot be read"),
        ((b"cHRM", numbers(&[31_270, 32_900, 1, 1, 1, 1, 1, 1])), "cannot be read"),
        ((b"cICP", vec![9, 16, 0, 1]), "HDR"),
        ((b"cICP", vec![77, 13, 0, 1]), "cannot be read"),
    ] {
        let (found, warnings) = read(&rgb_png(&[chunk]));
        assert_eq!(found, COLOUR, "{says}");
        assert!(warnings.len() == 1 && warnings[0].contains(says), "{says}: {warnings:?}");
        assert!(warnings[0].contains("taken as sRGB"), "{warnings:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_damaged_profile_harms_nothing(
        which in 0..4,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let profile = match which {
            0 => ColorProfile::new_display_p3(),
            1 => ColorProfile::new_adobe_rgb(),
            2 => ColorProfile::new_gray_with_gamma(2.2),
            _ => ColorProfile::new_lab(),
        };
        let mut profile = profile.encode().unwrap();
        for (at, byte) in changes {
            let at = at.index(profile.len());
            profile[at] = byte;
        }
        if let Some(cut) = cut {
            profile.truncate(cut.index(profile.len()));
        }
        let mut warnings = vec![];
        let picture = DynamicImage::from(RgbImage::from_pixel(3, 2, Rgb(COLOUR)));
        let read = to_srgb("init_image", picture, &icc(&profile), &mut warnings);
        prop_assert_eq!((read.width(), read.height()), (3, 2));
        prop_assert!(warnings.len() <= 1);
    }
}
