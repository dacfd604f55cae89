//! The pictures of an edit: files of a form (`image` or `image[]`, `mask` or `mask[]`), or data URLs in JSON. They are put
//! into the job in the size that was asked for; the mask is turned into ours, where white is repainted.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use image::DynamicImage;
use serde_json::Value;

use super::ask::Ask;
use crate::{
    contract::{ContractError, inline},
    decoding::{read_holes, read_picture},
    http::ApiError,
    queen::{
        auth::Client,
        foreign::{
            Foreign,
            fields::Fields,
            form::Upload,
            pictures::{MAX_PIXELS, filled, inline as in_base64},
            refusal::field,
        },
    },
};

/// The part of a form that is the picture.
pub(super) const IMAGE: &str = "image";
/// The part of a form that is the mask.
pub(super) const MASK: &str = "mask";

/// What is edited, and where.
#[derive(Debug)]
pub(super) struct Inputs {
    pub image: Input,
    pub mask: Option<Input>,
}

/// A picture as it came.
#[derive(Debug)]
pub(super) enum Input {
    File(Bytes),
    /// Base64, bare or as a data URL.
    Text(String),
}

/// The pictures of a request.
///
/// # Errors
/// There is none, there are several, or it is an address or the id of a file.
pub(super) fn inputs(fields: &mut Fields, uploads: Vec<Upload>) -> Result<Inputs, ApiError> {
    let (mut images, mut masks) = (vec![], vec![]);
    for upload in uploads {
        let to = if upload.name == MASK { &mut masks } else { &mut images };
        to.push(Input::File(upload.bytes));
    }
    for name in ["images", IMAGE, MASK] {
        let to = if name == MASK { &mut masks } else { &mut images };
        match fields.take(name) {
            None => {}
            Some(Value::Array(items)) => {
                for item in items {
                    to.push(text_of(name, item)?);
                }
            }
            Some(item) => to.push(text_of(name, item)?),
        }
    }
    let one = |name: &str, inputs: Vec<Input>| match inputs.len() {
        0 | 1 => Ok(inputs.into_iter().next()),
        many => Err(field(name, format!("{many} of them; one is edited at a time"))),
    };
    let image = one(IMAGE, images)?.ok_or_else(|| field(IMAGE, "is missing"))?;
    Ok(Inputs { image, mask: one(MASK, masks)? })
}

/// What JSON has of a picture: a data URL, alone or as `image_url`, itself alone or with `url`.
fn text_of(name: &str, value: Value) -> Result<Input, ApiError> {
    match value {
        Value::String(text) => Ok(Input::Text(text)),
        Value::Object(mut fields) => match (fields.remove("image_url"), fields.remove("url")) {
            (Some(inner), _) | (None, Some(inner)) => text_of(name, inner),
            (None, None) if fields.contains_key("file_id") => {
                Err(field(name, "files are not kept here; send the picture as a data URL in `image_url`"))
            }
            (None, None) => Err(field(name, "must have `image_url` with a data URL")),
        },
        _ => Err(field(name, "must be a data URL, or an object with one in `image_url`")),
    }
}

impl Input {
    /// Its bytes.
    fn bytes(self, name: &str, most: u64) -> Result<Bytes, ApiError> {
        let bytes = match self {
            Self::File(bytes) => bytes,
            Self::Text(text) => {
                let said = |source| ContractError::Image { field: name.to_owned(), source };
                let base64 = inline::base64_of(&text).map_err(said)?;
                let size = inline::check(base64).map_err(said)?;
                if size > most {
                    return Err(too_large(name, size, most));
                }
                inline::decode(base64).map_err(said)?.into()
            }
        };
        match bytes.len() as u64 {
            0 => Err(field(name, "is empty")),
            size if size > most => Err(too_large(name, size, most)),
            _ => Ok(bytes),
        }
    }
}

fn too_large(name: &str, bytes: u64, limit: u64) -> ApiError {
    ContractError::TooLarge { field: name.to_owned(), bytes, limit }.into()
}

impl Foreign {
    /// Reads the pictures and puts them into the job; what there is to say of them.
    ///
    /// # Errors
    /// A file that cannot be used, by the name of its field.
    pub(super) async fn put_into(
        &self,
        client: &Client,
        inputs: Inputs,
        ask: &mut Ask,
    ) -> Result<Vec<String>, ApiError> {
        let (size, most) = (ask.how.size, self.queen.shared.options.max_input);
        let work = move || ready(inputs, size, most);
        let Ready { image, mask, warnings } = self.workbench.run(client, work).await?;
        let mut texts = [Some(image), mask].into_iter().flatten();
        for (_, place) in ask.operation.images_mut() {
            *place = texts.next().unwrap_or_default();
        }
        Ok(warnings)
    }
}

/// Pictures as a job takes them.
struct Ready {
    image: String,
    mask: Option<String>,
    warnings: Vec<String>,
}

/// A picture whose size is not changed goes on as it came: the worker reads it under the same limits. A mask is always read,
/// and brought into the shape of its picture together with it.
fn ready(inputs: Inputs, size: Option<(u32, u32)>, most: u64) -> Result<Ready, ApiError> {
    let mut warnings = vec![];
    let image = inputs.image.bytes(IMAGE, most)?;
    let mask = match inputs.mask {
        None => None,
        Some(mask) => {
            let bytes = mask.bytes(MASK, most)?;
            let mask = DynamicImage::from(read_holes(MASK, &bytes, MAX_PIXELS, &mut warnings)?);
            Some(in_base64(&size.map_or_else(|| mask.clone(), |size| filled(&mask, size)))?)
        }
    };
    let Some(size) = size else {
        return Ok(Ready { image: STANDARD.encode(&image), mask, warnings });
    };
    let picture = DynamicImage::from(read_picture(IMAGE, &image, MAX_PIXELS, &mut warnings)?);
    if is_cut(&picture, size) {
        let (width, height) = (picture.width(), picture.height());
        warnings
            .push(format!("image: {width}x{height} is not of the shape of `size`; its edges are cut off"));
    }
    Ok(Ready { image: in_base64(&filled(&picture, size))?, mask, warnings })
}

/// Whether a picture loses more than a rounding of its sides.
fn is_cut(picture: &DynamicImage, (width, height): (u32, u32)) -> bool {
    let shape = f64::from(picture.width()) / f64::from(picture.height());
    let wanted = f64::from(width) / f64::from(height);
    (shape / wanted - 1.0).abs() > 0.01
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage, Rgba, RgbaImage};
    use serde_json::{Map, json};

    use super::*;

    fn png(picture: &DynamicImage) -> Vec<u8> {
        inline::decode(&in_base64(picture).unwrap()).unwrap()
    }

    fn of_json(body: Value) -> Result<Inputs, ApiError> {
        let Value::Object(fields) = body else { panic!("{body}") };
        inputs(&mut Fields::of_json(fields), vec![])
    }

    fn upload(name: &str) -> Upload {
        Upload { name: name.into(), bytes: Bytes::from_static(b"x") }
    }

    #[test]
    fn one_picture_is_edited_whichever_way_it_came() {
        for body in [
            json!({"images": [{"image_url": "data:image/png;base64,AAAA"}]}),
            json!({"images": [{"image_url": {"url": "data:image/png;base64,AAAA"}}]}),
            json!({"image": "data:image/png;base64,AAAA", "mask": {"image_url": "AAAA"}}),
            json!({"image": ["AAAA"]}),
        ] {
            assert_eq!(of_json(body).unwrap().image.bytes(IMAGE, 100).unwrap(), [0; 3].as_slice());
        }
        let form = inputs(&mut Fields::of_form(Map::new()), vec![upload(IMAGE), upload(MASK)]).unwrap();
        assert!(form.mask.is_some());
    }

    #[test]
    fn what_is_no_picture_of_its_own_is_refused_by_its_field() {
        for (body, says) in [
            (json!({}), "`image`: is missing"),
            (json!({"images": []}), "`image`: is missing"),
            (json!({"image": ["AAAA", "AAAA"]}), "`image`: 2 of them"),
            (json!({"images": [{"file_id": "f"}]}), "`images`: files are not kept here"),
            (json!({"image": "AAAA", "mask": 7}), "`mask`: must be a data URL"),
        ] {
            let error = of_json(body).unwrap_err();
            assert!(error.status == 400 && error.message.starts_with(says), "{error}");
        }
        let two = inputs(&mut Fields::default(), vec![upload(IMAGE), upload(IMAGE)]).unwrap_err();
        assert!(two.message.contains("one is edited at a time"), "{two}");
        let fetched = of_json(json!({"image": "http://169.254.169.254/"})).unwrap().image;
        let error = fetched.bytes(IMAGE, 100).unwrap_err();
        assert!(error.message.contains("pictures are not fetched"), "{error}");
        let large = Input::Text("A".repeat(1000)).bytes(IMAGE, 100).unwrap_err();
        assert_eq!((large.status, large.message.starts_with("`image`: 750 bytes")), (413, true), "{large}");
    }

    #[test]
    fn a_mask_by_transparency_is_turned_into_white_on_black() {
        let image = png(&RgbImage::from_pixel(64, 64, Rgb([200, 10, 10])).into());
        let holed = RgbaImage::from_fn(64, 64, |x, _| Rgba([5, 5, 5, if x < 32 { 0 } else { 255 }]));
        let inputs = Inputs {
            image: Input::File(image.clone().into()),
            mask: Some(Input::File(png(&holed.into()).into())),
        };
        let ready = ready(inputs, None, 1 << 20).unwrap();
        assert_eq!(inline::decode(&ready.image).unwrap(), image, "the picture goes on as it came");
        let mask =
            image::load_from_memory(&inline::decode(&ready.mask.unwrap()).unwrap()).unwrap().into_luma8();
        assert_eq!((mask.get_pixel(0, 0).0, mask.get_pixel(63, 63).0), ([255], [0]));
        assert!(ready.warnings.is_empty(), "{:?}", ready.warnings);
    }

    #[test]
    fn a_picture_and_its_mask_come_out_in_the_size_that_is_asked_for() {
        let image = png(&RgbImage::new(192, 64).into());
        let mask = png(&RgbImage::new(192, 64).into());
        let inputs = Inputs { image: Input::File(image.into()), mask: Some(Input::File(mask.into())) };
        let ready = ready(inputs, Some((128, 128)), 1 << 20).unwrap();
        for text in [&ready.image, ready.mask.as_ref().unwrap()] {
            let picture = image::load_from_memory(&inline::decode(text).unwrap()).unwrap();
            assert_eq!((picture.width(), picture.height()), (128, 128));
        }
        assert!(ready.warnings[0].starts_with("mask: nothing in it is transparent"), "{:?}", ready.warnings);
        assert!(ready.warnings[1].contains("192x64 is not of the shape"), "{:?}", ready.warnings);
    }
}
