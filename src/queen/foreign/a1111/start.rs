//! What img2img starts from: a picture, brought to the size that is asked for, and a mask, turned into ours.
//!
//! Without a mask, and where all of a picture is drawn, both come to `width` and `height` first and the result has that size.
//! With `inpaint_full_res` (only masked, which is what requests get that do not say otherwise) the picture keeps its size,
//! and the part around the mask is drawn at `width` and `height`. A side that is not told is the picture's, or the model's.

use image::{DynamicImage, GenericImageView, RgbImage, imageops};
use serde_json::Value;

use super::wish::{Wish, list, whole};
use crate::{
    contract::{
        Capability, ContractError, inline,
        limits::{MAX_SIDE, MIN_SIDE},
    },
    decoding::{read_painted, read_picture},
    http::ApiError,
    queen::{
        auth::Client,
        foreign::{
            Foreign,
            fields::Fields,
            pictures::{MAX_PIXELS, filled, inline as in_base64},
            refusal::field,
        },
    },
};

/// The field of the picture.
const IMAGE: &str = "init_images";
/// The field of the mask.
const MASK: &str = "mask";
/// A1111's own for requests that name none.
const STRENGTH: f64 = 0.75;
const BLUR: i64 = 4;
/// `inpainting_fill`: what is there already.
const ORIGINAL: i64 = 1;

/// How a picture comes to its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resize {
    /// Its sides are stretched.
    Stretch,
    /// Its middle is kept.
    Crop,
    /// All of it is kept, and its edges are drawn out.
    Fill,
}

/// What is started from.
#[derive(Debug)]
pub(super) struct Start {
    image: String,
    mask: Option<Mask>,
    resize: Resize,
    /// Width and height that are asked for.
    size: (Option<u32>, Option<u32>),
    strength: Value,
    warnings: Vec<String>,
}

/// What is repainted.
#[derive(Debug)]
struct Mask {
    image: String,
    invert: bool,
    blur: i64,
    /// Pixels around it, where the part around it alone is drawn.
    padding: Option<Value>,
}

impl Start {
    /// Takes the fields.
    ///
    /// # Errors
    /// There is no picture, or what is wrong with a field.
    pub fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let mut warnings = vec![];
        let mut images = list(fields, IMAGE)?.into_iter();
        let Some(Value::String(image)) = images.next() else {
            return Err(field(IMAGE, "must be a list with a picture in base64"));
        };
        if images.next().is_some() {
            warnings.push("init_images: the first one is drawn from, others are left out".into());
        }
        let resize = match whole(fields, "resize_mode")?.unwrap_or(0) {
            0 => Resize::Stretch,
            1 => Resize::Crop,
            2 => Resize::Fill,
            3 => return Err(field("resize_mode", "latents are not scaled here; 0, 1 and 2 are allowed")),
            mode => return Err(field("resize_mode", format!("{mode} is none; 0, 1 and 2 are allowed"))),
        };
        let mask = Mask::take(fields, &mut warnings)?;
        let size = (side(fields, "width")?, side(fields, "height")?);
        let strength = fields.take("denoising_strength").unwrap_or_else(|| STRENGTH.into());
        Ok(Self { image, mask, resize, size, strength, warnings })
    }

    /// What a worker has to do.
    pub fn capability(&self) -> Capability {
        match self.mask {
            Some(_) => Capability::Inpaint,
            None => Capability::Transform,
        }
    }
}

impl Mask {
    fn take(fields: &mut Fields, warnings: &mut Vec<String>) -> Result<Option<Self>, ApiError> {
        let image = match fields.take(MASK) {
            None => None,
            Some(Value::String(image)) => Some(image),
            Some(_) => return Err(field(MASK, "must be one picture in base64")),
        };
        let invert = match fields.take("inpainting_mask_invert") {
            None | Some(Value::Bool(false)) => false,
            Some(Value::Bool(true)) => true,
            Some(number) => number.as_f64().is_some_and(|number| number != 0.0),
        };
        let both = whole(fields, "mask_blur")?;
        let (x, y) = (whole(fields, "mask_blur_x")?, whole(fields, "mask_blur_y")?);
        let blur = both.unwrap_or_else(|| match (x, y) {
            (None, None) => BLUR,
            (x, y) => x.unwrap_or(BLUR).max(y.unwrap_or(BLUR)),
        });
        let fill = whole(fields, "inpainting_fill")?.unwrap_or(0);
        let only_masked = fields.take("inpaint_full_res") != Some(Value::Bool(false));
        let padding = fields.take("inpaint_full_res_padding").unwrap_or_else(|| 0.into());
        let Some(image) = image else { return Ok(None) };
        if fill != ORIGINAL {
            warnings.push(format!("inpainting_fill: {fill} is drawn as {ORIGINAL} (original)"));
        }
        if both.is_none() && x.zip(y).is_some_and(|(x, y)| x != y) {
            warnings.push(format!("mask_blur_x, mask_blur_y: {blur} is used for both"));
        }
        Ok(Some(Self { image, invert, blur, padding: only_masked.then_some(padding) }))
    }
}

/// Takes a side; whether it can be drawn is said where a picture is resized to it.
fn side(fields: &mut Fields, name: &str) -> Result<Option<u32>, ApiError> {
    let Some(side) = whole(fields, name)? else { return Ok(None) };
    match u32::try_from(side).ok().filter(|side| (MIN_SIDE..=MAX_SIDE).contains(side)) {
        None => Err(field(name, format!("{side} is out of bounds; {MIN_SIDE} to {MAX_SIDE} are allowed"))),
        side => Ok(side),
    }
}

impl Foreign {
    /// Puts the pictures into the job.
    ///
    /// # Errors
    /// A picture that cannot be used, by the name of its field.
    pub(super) async fn begin_from(
        &self,
        client: &Client,
        start: Start,
        wish: &mut Wish,
    ) -> Result<(), ApiError> {
        let most = self.queen.shared.options.max_input;
        let Ready { fields, warnings } = self.workbench.run(client, move || ready(start, most)).await?;
        wish.body.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
        wish.warnings.extend(warnings);
        Ok(())
    }
}

/// Fields of the job, and what there is to say of them.
struct Ready {
    fields: Vec<(&'static str, Value)>,
    warnings: Vec<String>,
}

fn ready(start: Start, most: u64) -> Result<Ready, ApiError> {
    let Start { image, mask, resize, size, strength, mut warnings } = start;
    let picture = read_picture(IMAGE, &bytes(IMAGE, &image, most)?, MAX_PIXELS, &mut warnings)?;
    let picture = DynamicImage::from(picture);
    let own = (picture.width(), picture.height());
    let wanted = (size.0.unwrap_or(own.0), size.1.unwrap_or(own.1));
    let mut fields = vec![("strength", strength)];
    let Some(mask) = mask else {
        fields.push(("init_image", in_base64(&resize.to(&picture, wanted))?.into()));
        return Ok(Ready { fields, warnings });
    };
    let painted = read_painted(MASK, &bytes(MASK, &mask.image, most)?, MAX_PIXELS)?;
    let mut painted = DynamicImage::from(painted);
    if mask.invert {
        painted.invert();
    }
    fields.push(("mask_blur", mask.blur.into()));
    let (picture, painted) = match mask.padding {
        Some(padding) => {
            fields.push(("padding_mask_crop", padding));
            let told = [("width", size.0), ("height", size.1)];
            fields.extend(told.into_iter().filter_map(|(name, side)| Some((name, side?.into()))));
            (picture, painted)
        }
        None => (resize.to(&picture, wanted), resize.to(&painted, wanted)),
    };
    fields.push(("init_image", in_base64(&picture)?.into()));
    fields.push(("mask_image", in_base64(&painted)?.into()));
    Ok(Ready { fields, warnings })
}

/// The bytes of a picture in base64, bare or as a data URL.
fn bytes(name: &str, text: &str, most: u64) -> Result<Vec<u8>, ApiError> {
    let said = |source| ContractError::Image { field: name.to_owned(), source };
    let base64 = inline::base64_of(text).map_err(said)?;
    let size = inline::check(base64).map_err(said)?;
    if size > most {
        return Err(ContractError::TooLarge { field: name.to_owned(), bytes: size, limit: most }.into());
    }
    Ok(inline::decode(base64).map_err(said)?)
}

impl Resize {
    fn to(self, picture: &DynamicImage, (width, height): (u32, u32)) -> DynamicImage {
        if picture.dimensions() == (width, height) {
            return picture.clone();
        }
        match self {
            Self::Stretch => picture.resize_exact(width, height, imageops::FilterType::Lanczos3),
            Self::Crop => filled(picture, (width, height)),
            Self::Fill => drawn_out(picture, width, height),
        }
    }
}

/// All of a picture in the middle of another one, the rest of which repeats the nearest edge.
fn drawn_out(picture: &DynamicImage, width: u32, height: u32) -> DynamicImage {
    let inner = picture.resize(width, height, imageops::FilterType::Lanczos3).into_rgb8();
    let (left, top) = ((width - inner.width()) / 2, (height - inner.height()) / 2);
    RgbImage::from_fn(width, height, |x, y| {
        let x = x.saturating_sub(left).min(inner.width() - 1);
        let y = y.saturating_sub(top).min(inner.height() - 1);
        *inner.get_pixel(x, y)
    })
    .into()
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma, Rgb};
    use serde_json::{Map, json};

    use super::*;

    fn png(picture: impl Into<DynamicImage>) -> String {
        in_base64(&picture.into()).unwrap()
    }

    /// White in its left half.
    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, _| Rgb([if x < width / 2 { 255 } else { 0 }; 3]))
    }

    fn begin(body: Value) -> Result<(Map<String, Value>, Vec<String>), ApiError> {
        let Value::Object(body) = body else { panic!("{body}") };
        let Ready { fields, warnings } = ready(Start::take(&mut Fields::of_json(body))?, 1 << 20)?;
        Ok((fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(), warnings))
    }

    fn image(fields: &Map<String, Value>, name: &str) -> DynamicImage {
        let bytes = inline::decode(fields[name].as_str().unwrap()).unwrap();
        image::load_from_memory(&bytes).unwrap()
    }

    #[test]
    fn a_picture_comes_to_the_size_that_is_asked_for_in_one_of_three_ways() {
        let wide = format!("data:image/png;base64,{}", png(picture(192, 64)));
        for (mode, left, corner) in [(0, 63, 255), (1, 63, 255), (2, 63, 255)] {
            let (fields, _) =
                begin(json!({"init_images": [wide], "resize_mode": mode, "width": 128, "height": 128}))
                    .unwrap();
            let image = image(&fields, "init_image").into_rgb8();
            assert_eq!(image.dimensions(), (128, 128), "{mode}");
            assert!(
                image.get_pixel(left - 8, 64).0[0] > 200 && image.get_pixel(left + 10, 64).0[0] < 60,
                "{mode}"
            );
            assert_eq!(image.get_pixel(0, 0).0[0], corner, "{mode}");
            assert_eq!(fields["strength"], 0.75);
        }
        let (fields, _) = begin(json!({"init_images": [wide], "denoising_strength": 0.3})).unwrap();
        assert_eq!(image(&fields, "init_image").dimensions(), (192, 64), "it keeps its size");
        assert_eq!(fields["strength"], 0.3);
        assert!(!fields.contains_key("mask_image"));
    }

    #[test]
    fn the_part_around_a_mask_is_drawn_unless_the_request_says_otherwise() {
        let (image_, mask) = (png(picture(192, 64)), png(picture(192, 64)));
        let body = json!({"init_images": [image_], "mask": mask, "width": 128, "height": 72});
        let (fields, warnings) = begin(body.clone()).unwrap();
        assert_eq!(image(&fields, "init_image").dimensions(), (192, 64));
        assert_eq!(
            (&fields["mask_blur"], &fields["padding_mask_crop"], &fields["width"], &fields["height"]),
            (&json!(4), &json!(0), &json!(128), &json!(72))
        );
        assert_eq!(warnings, ["inpainting_fill: 0 is drawn as 1 (original)"]);
        let mut whole = body;
        let more = json!({"inpaint_full_res": false, "inpainting_fill": 1, "mask_blur": 0, "inpainting_mask_invert": 1});
        whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (fields, warnings) = begin(whole).unwrap();
        assert_eq!(image(&fields, "init_image").dimensions(), (128, 72));
        let mask = image(&fields, "mask_image").into_luma8();
        assert_eq!(
            (mask.dimensions(), mask.get_pixel(0, 0).0, mask.get_pixel(127, 0).0),
            ((128, 72), [0], [255])
        );
        assert_eq!((fields.get("width"), &fields["mask_blur"], warnings.len()), (None, &json!(0), 0));
    }

    #[test]
    fn what_is_painted_on_a_transparent_ground_is_repainted() {
        let painted = image::RgbaImage::from_fn(64, 64, |x, _| {
            image::Rgba(if x < 32 { [x as u8, 200, 7, 255] } else { [255, 255, 255, 0] })
        });
        let body = json!({"init_images": [png(picture(64, 64))], "mask": png(painted), "inpainting_fill": 1});
        let mask = image(&begin(body).unwrap().0, "mask_image").into_luma8();
        assert_eq!((mask.get_pixel(0, 0), mask.get_pixel(63, 0)), (&Luma([255]), &Luma([0])));
        let grey = GrayImage::from_pixel(64, 64, Luma([255]));
        let body = json!({"init_images": [png(picture(64, 64))], "mask": png(grey), "inpainting_fill": 1});
        assert_eq!(image(&begin(body).unwrap().0, "mask_image").into_luma8().get_pixel(9, 9), &Luma([255]));
    }

    #[test]
    fn one_blur_is_that_of_both_directions() {
        let with = |more: Value| {
            let (image, mask) = (png(picture(64, 64)), png(picture(64, 64)));
            let mut body = json!({"init_images": [image], "mask": mask, "inpainting_fill": 1});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let (fields, warnings) = begin(body).unwrap();
            (fields["mask_blur"].clone(), warnings.len())
        };
        assert_eq!(with(json!({"mask_blur_x": 9, "mask_blur_y": 9})), (json!(9), 0));
        assert_eq!(with(json!({"mask_blur_x": 2, "mask_blur_y": 9})), (json!(9), 1));
        assert_eq!(with(json!({"mask_blur": 0, "mask_blur_x": 2, "mask_blur_y": 9})), (json!(0), 0));
    }

    #[test]
    fn what_is_wrong_is_told_of_its_field() {
        let image = png(picture(64, 64));
        for (body, says) in [
            (json!({}), "`init_images`: must be a list"),
            (json!({"init_images": image}), "`init_images`: must be a list"),
            (json!({"init_images": []}), "`init_images`: must be a list"),
            (json!({"init_images": ["http://169.254.169.254/"]}), "`init_images`: it is an address"),
            (json!({"init_images": ["no base64!"]}), "`init_images`: it is not base64"),
            (json!({"init_images": [image], "mask": [image]}), "`mask`: must be one picture"),
            (json!({"init_images": [image], "mask": "R0lGODlhAQABAAAAADs="}), "`mask`: it is a GIF"),
            (json!({"init_images": [image], "resize_mode": 3}), "`resize_mode`: latents"),
            (json!({"init_images": [image], "width": 100_000}), "`width`: 100000 is out of bounds"),
            (json!({"init_images": [image], "height": 0}), "`height`: 0 is out of bounds"),
        ] {
            let error = begin(body.clone()).unwrap_err();
            assert!(error.status == 400 && error.message.starts_with(says), "{error}");
        }
    }
}
