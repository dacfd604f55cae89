//! What an inpaint job wishes of its mask: a soft edge, and that the part around it alone is drawn.

use super::{
    ContractError, InpaintBody, Limits,
    job::{picture_size, within},
    limits::{MAX_MASK_BLUR, MAX_MASK_PADDING},
};

/// The wishes; by default there are none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Masking {
    /// Standard deviation of the blur of the mask's edges, in pixels; 0: none.
    pub blur: u32,
    /// The part around the mask alone is drawn; none: the whole picture is.
    pub crop: Option<MaskCrop>,
}

/// The part of a picture that is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskCrop {
    /// Pixels of the picture around what is white.
    pub padding: u32,
    /// Width that the part is drawn at, in pixels; none: the model's native one.
    pub width: Option<u32>,
    /// Height that the part is drawn at, in pixels; none: the model's native one.
    pub height: Option<u32>,
}

impl Masking {
    /// The checked fields of a body.
    ///
    /// # Errors
    /// The field that is out of bounds, or a size that nothing is drawn at.
    pub(super) fn of(body: &InpaintBody, limits: &Limits) -> Result<Self, ContractError> {
        let blur = within("mask_blur", body.mask_blur.unwrap_or(0), 0, MAX_MASK_BLUR)?;
        let Some(padding) = body.padding_mask_crop else {
            let size = [("width", body.width), ("height", body.height)];
            return match size.into_iter().find(|(_, side)| side.is_some()) {
                Some((field, _)) => Err(ContractError::field(
                    field,
                    "the whole picture is drawn at its own size; with `padding_mask_crop` this is the size that the part \
                     around the mask is drawn at",
                )),
                None => Ok(Self { blur, crop: None }),
            };
        };
        let padding = within("padding_mask_crop", padding, 0, MAX_MASK_PADDING)?;
        let (width, height) = picture_size(body.width, body.height, limits)?;
        Ok(Self { blur, crop: Some(MaskCrop { padding, width, height }) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::contract::{Capability, Job, JobSource, Operation};

    fn inpaint(more: Value) -> Value {
        let mut body = json!({"prompt": "a", "job_id": "j", "init_image": "AA==", "mask_image": "AA=="});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    }

    fn parse(capability: Capability, body: &Value) -> Result<Operation, ContractError> {
        Operation::parse(Some(capability), body.to_string().as_bytes())
    }

    fn masking(more: Value) -> Result<Masking, ContractError> {
        let job = Job::new(parse(Capability::Inpaint, &inpaint(more))?, &Limits::default())?;
        let JobSource::Inpaint { masking, .. } = job.source else { unreachable!() };
        Ok(masking)
    }

    #[test]
    fn a_job_carries_its_wishes() {
        assert_eq!(masking(json!({})).unwrap(), Masking::default());
        assert_eq!(masking(json!({"mask_blur": 4})).unwrap(), Masking { blur: 4, crop: None });
        let crop = |padding, width, height| Some(MaskCrop { padding, width, height });
        assert_eq!(masking(json!({"padding_mask_crop": 0})).unwrap().crop, crop(0, None, None));
        let all = json!({"padding_mask_crop": 32, "width": 512, "height": 768});
        assert_eq!(masking(all).unwrap().crop, crop(32, Some(512), Some(768)));
    }

    #[test]
    fn what_is_out_of_bounds_or_without_use_names_its_field() {
        for (more, field) in [
            (json!({"mask_blur": -1}), "`mask_blur`"),
            (json!({"mask_blur": 65}), "`mask_blur`"),
            (json!({"mask_blur": 1.5}), "`mask_blur`"),
            (json!({"padding_mask_crop": -1}), "`padding_mask_crop`"),
            (json!({"padding_mask_crop": 2049}), "`padding_mask_crop`"),
            (json!({"padding_mask_crop": true}), "`padding_mask_crop`"),
            (json!({"padding_mask_crop": 1, "width": 100}), "`width`"),
            (json!({"padding_mask_crop": 1, "height": 4096}), "`height`"),
            (json!({"width": 512}), "`width`"),
            (json!({"height": 512, "mask_blur": 4}), "`height`"),
        ] {
            let message = masking(more.clone()).unwrap_err().to_string();
            assert!(message.starts_with(field), "{more}: {message}");
        }
        assert!(masking(json!({"width": 512})).unwrap_err().to_string().contains("padding_mask_crop"));
    }

    #[test]
    fn other_operations_have_no_mask() {
        for (capability, field) in [
            (Capability::Generate, "mask_blur"),
            (Capability::Generate, "padding_mask_crop"),
            (Capability::Transform, "mask_blur"),
            (Capability::Transform, "padding_mask_crop"),
        ] {
            let mut body = json!({"prompt": "a", field: 4});
            if capability == Capability::Transform {
                body["init_image"] = json!("AA==");
            }
            let message = parse(capability, &body).unwrap_err().to_string();
            assert!(message.starts_with(&format!("`{field}`: unknown field")), "{message}");
        }
    }

    #[test]
    fn the_fingerprint_sees_them_and_no_blur_is_a_blur_of_0() {
        let fingerprint = |more| parse(Capability::Inpaint, &inpaint(more)).unwrap().fingerprint();
        let plain = fingerprint(json!({}));
        assert_eq!(plain, fingerprint(json!({"mask_blur": 0, "padding_mask_crop": null})));
        for more in [json!({"mask_blur": 1}), json!({"padding_mask_crop": 0})] {
            assert_ne!(plain, fingerprint(more.clone()), "{more}");
        }
    }
}
