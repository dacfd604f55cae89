//! The colours of an input: from what its file says of them to sRGB, in which models were trained. A file that says nothing
//! is in sRGB.

use std::io::Cursor;

use image::{DynamicImage, GrayImage, ImageBuffer, ImageDecoder, RgbImage, RgbaImage};
use moxcms::{
    Chromaticity, CicpColorPrimaries, CicpProfile, CmsError, ColorPrimaries, ColorProfile, DataColorSpace,
    Layout, MatrixCoefficients, ProfileText, ToneReprCurve, TransferCharacteristics, TransformExecutor,
    TransformOptions, XyY,
};

/// The largest profile that is read, in bytes: those of printers have a few megabytes.
const MAX_PROFILE: usize = 8 << 20;
/// Colours that a conversion would change by no more than this, of 255, are left as they are.
const SAME: u8 = 2;
/// Gamma and chromaticities this near to sRGB's, as a part of them, are sRGB's: files round them.
const NEAR: f64 = 0.05;
/// sRGB as a PNG's gAMA and cHRM say it: 0.45455, and white, red, green and blue.
const SRGB_GAMMA: f64 = 0.45455;
const SRGB_PLACES: [f64; 8] = [0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06];
/// The gammas that a PNG may name: from a quarter of linear to four times sRGB's.
const GAMMAS: std::ops::RangeInclusive<f64> = 0.1..=4.0;
/// The least area of the triangle of three primaries, in x and y: sRGB's is 0.11. Below it no colour can be told from grey.
const LEAST_GAMUT: f64 = 0.01;
/// Characters of a profile's own name that are shown.
const MAX_NAME: usize = 64;

/// What a file says of its colours.
#[derive(Debug)]
pub enum Colours {
    /// They are in sRGB.
    Srgb,
    /// A profile, and its name.
    Profile(Box<ColorProfile>, String),
    /// Something that cannot be used, and why.
    Unusable(&'static str),
}

impl Colours {
    /// What the file of a decoder says.
    pub fn of(decoder: &mut impl ImageDecoder, bytes: &[u8], is_png: bool) -> Self {
        let described = if is_png { png(bytes) } else { Described::default() };
        if let Some(colours) = described.code_points {
            return colours;
        }
        match decoder.icc_profile() {
            Ok(Some(profile)) => icc(&profile),
            Ok(None) => described.colours,
            Err(_) => Self::Unusable("cannot be read"),
        }
    }
}

/// The picture in sRGB; what was done about its colours is told in `warnings`.
pub fn to_srgb(
    field: &str,
    picture: DynamicImage,
    colours: &Colours,
    warnings: &mut Vec<String>,
) -> DynamicImage {
    let (profile, name) = match colours {
        Colours::Srgb => return picture,
        Colours::Profile(profile, name) => (profile, name),
        Colours::Unusable(why) => {
            warnings.push(format!("{field}: its colour profile {why}; its colours are taken as sRGB"));
            return picture;
        }
    };
    match converted(&picture, profile) {
        Ok(None) => picture,
        Ok(Some(converted)) => {
            warnings.push(format!("{field}: its colours are converted from {name} to sRGB"));
            converted
        }
        Err(_) => {
            warnings.push(format!(
                "{field}: its colour profile does not fit its pixels; its colours are taken as sRGB"
            ));
            picture
        }
    }
}

fn icc(bytes: &[u8]) -> Colours {
    if bytes.len() > MAX_PROFILE {
        return Colours::Unusable("is larger than 8 MiB");
    }
    let Ok(profile) = ColorProfile::new_from_slice(bytes) else { return Colours::Unusable("cannot be read") };
    match profile.color_space {
        DataColorSpace::Rgb | DataColorSpace::Gray => {
            let name = name(&profile);
            Colours::Profile(Box::new(profile), name)
        }
        DataColorSpace::Cmyk => Colours::Unusable("is one of CMYK, which is not used"),
        _ => Colours::Unusable("is of neither RGB nor grey"),
    }
}

fn name(profile: &ColorProfile) -> String {
    let text = match &profile.description {
        Some(ProfileText::PlainString(text)) => text.as_str(),
        Some(ProfileText::Localizable(texts)) => texts.first().map_or("", |text| text.value.as_str()),
        Some(ProfileText::Description(text)) => text.ascii_string.as_str(),
        None => "",
    };
    let shown: String = text.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    match shown.trim() {
        "" => "its profile".into(),
        shown => format!("`{shown}`"),
    }
}

/// What a PNG says beside an ICC profile.
struct Described {
    /// The chunk cICP, which stands above a profile.
    code_points: Option<Colours>,
    /// The chunks sRGB, gAMA and cHRM, which stand below it.
    colours: Colours,
}

impl Default for Described {
    fn default() -> Self {
        Self { code_points: None, colours: Colours::Srgb }
    }
}

fn png(bytes: &[u8]) -> Described {
    let limits = png::Limits { bytes: MAX_PROFILE };
    let Ok(reader) = png::Decoder::new_with_limits(Cursor::new(bytes), limits).read_info() else {
        return Described::default();
    };
    let info = reader.info();
    let code_points = info.coding_independent_code_points.map(|points| {
        code_points(points.color_primaries, points.transfer_function, points.matrix_coefficients)
    });
    let colours = match info.srgb {
        Some(_) => Colours::Srgb,
        None => measured(
            info.gama_chunk.map(|gamma| f64::from(gamma.into_value())),
            info.chrm_chunk.map(|places| {
                let pairs = [places.white, places.red, places.green, places.blue];
                pairs
                    .map(|(x, y)| [x, y].map(|place| f64::from(place.into_value())))
                    .as_flattened()
                    .try_into()
            }),
        ),
    };
    Described { code_points, colours }
}

/// ITU-T H.273's numbers of primaries and transfer. HDR (PQ, HLG) has no fixed white.
fn code_points(primaries: u8, transfer: u8, matrix: u8) -> Colours {
    if (primaries, transfer) == (1, 13) {
        return Colours::Srgb;
    }
    if matches!(transfer, 16 | 18) {
        return Colours::Unusable("is one of HDR, which is not used");
    }
    let (Ok(color_primaries), Ok(transfer_characteristics), Ok(matrix_coefficients)) = (
        CicpColorPrimaries::try_from(primaries),
        TransferCharacteristics::try_from(transfer),
        MatrixCoefficients::try_from(matrix),
    ) else {
        return Colours::Unusable("cannot be read");
    };
    let profile = ColorProfile::new_from_cicp(CicpProfile {
        color_primaries,
        transfer_characteristics,
        matrix_coefficients,
        full_range: true,
    });
    match profile.red_trc {
        Some(_) => Colours::Profile(Box::new(profile), format!("its code points {primaries}, {transfer}")),
        None => Colours::Unusable("cannot be read"),
    }
}

/// gAMA and cHRM: the exponent of the encoding, and x and y of white, red, green and blue.
fn measured(gamma: Option<f64>, places: Option<Result<[f64; 8], std::array::TryFromSliceError>>) -> Colours {
    let near = |found: f64, wanted: f64| (found - wanted).abs() <= NEAR * wanted;
    let places = match places {
        None => None,
        Some(Ok(places)) if places.iter().all(|place| (0.0..=1.0).contains(place)) && places[1] > 0.0 => {
            Some(places)
        }
        Some(_) => return Colours::Unusable("cannot be read"),
    };
    let gamma = gamma.filter(|gamma| !near(*gamma, SRGB_GAMMA));
    let places =
        places.filter(|places| !places.iter().zip(SRGB_PLACES).all(|(place, own)| near(*place, own)));
    if gamma.is_some_and(|gamma| !GAMMAS.contains(&gamma)) {
        return Colours::Unusable("cannot be read");
    }
    let mut profile = ColorProfile::new_srgb();
    profile.cicp = None;
    let mut said = vec![];
    if let Some(gamma) = gamma {
        let curve = ToneReprCurve::Parametric(vec![(1.0 / gamma) as f32]);
        profile.red_trc = Some(curve.clone());
        profile.green_trc = Some(curve.clone());
        profile.blue_trc = Some(curve);
        said.push(format!("gamma {:.3}", 1.0 / gamma));
    }
    if let Some([white_x, white_y, colours @ ..]) = places {
        let [red_x, red_y, green_x, green_y, blue_x, blue_y] = colours;
        let twice = (green_x - red_x) * (blue_y - red_y) - (blue_x - red_x) * (green_y - red_y);
        if twice.abs() / 2.0 < LEAST_GAMUT {
            return Colours::Unusable("cannot be read");
        }
        let [red, green, blue] =
            [0, 2, 4].map(|at| Chromaticity::new(colours[at] as f32, colours[at + 1] as f32));
        profile.update_rgb_colorimetry(
            XyY { x: white_x, y: white_y, yb: 1.0 },
            ColorPrimaries { red, green, blue },
        );
        let is_usable = [profile.red_colorant, profile.green_colorant, profile.blue_colorant]
            .iter()
            .all(|colorant| colorant.x.is_finite() && colorant.y.is_finite() && colorant.z.is_finite());
        if !is_usable {
            return Colours::Unusable("cannot be read");
        }
        said.push("primaries of its own".into());
    }
    match said.is_empty() {
        true => Colours::Srgb,
        false => Colours::Profile(Box::new(profile), said.join(" and ")),
    }
}

/// None where the picture would stay as it is.
fn converted(picture: &DynamicImage, profile: &ColorProfile) -> Result<Option<DynamicImage>, CmsError> {
    let (srgb, options) = (ColorProfile::new_srgb(), TransformOptions::default());
    let is_grey = profile.color_space == DataColorSpace::Gray;
    let colour = picture.color();
    if is_grey && colour.has_color() {
        return Err(CmsError::InvalidLayout);
    }
    let (from, to) = match (is_grey, colour.has_alpha()) {
        (false, false) => (Layout::Rgb, Layout::Rgb),
        (false, true) => (Layout::Rgba, Layout::Rgba),
        (true, false) => (Layout::Gray, Layout::Rgb),
        (true, true) => (Layout::GrayAlpha, Layout::Rgba),
    };
    if is_srgb(profile, &srgb, is_grey)? {
        return Ok(None);
    }
    let (width, height) = (picture.width(), picture.height());
    let pixels = width as usize * height as usize;
    let is_deep = colour.bytes_per_pixel() / colour.channel_count() > 1;
    let picture = if is_deep {
        let source = match from {
            Layout::Gray => picture.to_luma16().into_raw(),
            Layout::GrayAlpha => picture.to_luma_alpha16().into_raw(),
            Layout::Rgba => picture.to_rgba16().into_raw(),
            _ => picture.to_rgb16().into_raw(),
        };
        let transform = profile.create_transform_16bit(from, &srgb, to, options)?;
        let out = transformed(&*transform, &source, pixels * to.channels())?;
        match to {
            Layout::Rgba => ImageBuffer::from_raw(width, height, out).map(DynamicImage::ImageRgba16),
            _ => ImageBuffer::from_raw(width, height, out).map(DynamicImage::ImageRgb16),
        }
    } else {
        let source = match from {
            Layout::Gray => picture.to_luma8().into_raw(),
            Layout::GrayAlpha => picture.to_luma_alpha8().into_raw(),
            Layout::Rgba => picture.to_rgba8().into_raw(),
            _ => picture.to_rgb8().into_raw(),
        };
        let transform = profile.create_transform_8bit(from, &srgb, to, options)?;
        let out = transformed(&*transform, &source, pixels * to.channels())?;
        match to {
            Layout::Rgba => RgbaImage::from_raw(width, height, out).map(DynamicImage::ImageRgba8),
            _ => RgbImage::from_raw(width, height, out).map(DynamicImage::ImageRgb8),
        }
    };
    picture.map(Some).ok_or(CmsError::InvalidLayout)
}

fn transformed<T: Copy + Default>(
    transform: &(impl TransformExecutor<T> + ?Sized),
    source: &[T],
    length: usize,
) -> Result<Vec<T>, CmsError> {
    let mut out = vec![T::default(); length];
    transform.transform(source, &mut out)?;
    Ok(out)
}

/// Whether colours all over the cube, or all greys, stay as they are.
fn is_srgb(profile: &ColorProfile, srgb: &ColorProfile, is_grey: bool) -> Result<bool, CmsError> {
    let levels = || (0..=255u8).step_by(15);
    let (source, wanted, from): (Vec<u8>, Vec<u8>, _) = match is_grey {
        true => {
            let all: Vec<u8> = (0..=255).collect();
            let wanted = DynamicImage::from(GrayImage::from_raw(256, 1, all.clone()).unwrap_or_default());
            (all, wanted.to_rgb8().into_raw(), Layout::Gray)
        }
        false => {
            let cube: Vec<u8> = levels()
                .flat_map(|r| levels().flat_map(move |g| levels().flat_map(move |b| [r, g, b])))
                .collect();
            (cube.clone(), cube, Layout::Rgb)
        }
    };
    let transform = profile.create_transform_8bit(from, srgb, Layout::Rgb, TransformOptions::default())?;
    let found = transformed(&*transform, &source, wanted.len())?;
    Ok(found.iter().zip(&wanted).all(|(found, wanted)| found.abs_diff(*wanted) <= SAME))
}

#[cfg(test)]
mod tests;
