//! What an inpaint job points at in place of sending a mask: points on what is to be repainted and beside it, a box around it.

use super::{ContractError, ImageInput, InpaintBody, Limits, limits::MAX_MASK_POINTS};

/// The label of a point that lies on what is repainted.
pub(super) const ON_IT: u32 = 1;
/// The label of a point that lies beside it.
const BESIDE_IT: u32 = 0;

const POINTS: &str = "mask_points";
const LABELS: &str = "mask_labels";
const BOX: &str = "mask_box";

/// What says which part of a picture is repainted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MaskSource {
    /// A mask: white is repainted, black is kept.
    Image(ImageInput),
    /// A worker makes the mask of this.
    Pointing(Pointing),
}

/// Points on and beside what is repainted, and a box around it. At least one point lies on it, or there is a box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointing {
    points: Vec<MaskPoint>,
    around: Option<MaskBox>,
}

/// A pixel of the upright picture, counted from its upper left corner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskPoint {
    /// To the right, in pixels.
    pub x: u32,
    /// Down, in pixels.
    pub y: u32,
    /// Whether it lies on what is repainted, or beside it.
    pub is_on_it: bool,
}

/// A box that is not empty, in pixels of the upright picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskBox {
    /// Its left side.
    pub left: u32,
    /// Its upper side.
    pub top: u32,
    /// Its right side, above `left`.
    pub right: u32,
    /// Its lower side, above `top`.
    pub bottom: u32,
}

impl MaskSource {
    /// Of the checked fields of a body.
    ///
    /// # Errors
    /// The field that is wrong, or of two that do not go together the second.
    pub(super) fn of(body: &InpaintBody, limits: &Limits) -> Result<Self, ContractError> {
        let pointed = [
            (POINTS, body.mask_points.is_some()),
            (LABELS, body.mask_labels.is_some()),
            (BOX, body.mask_box.is_some()),
        ];
        let pointed = pointed.into_iter().find(|(_, is_there)| *is_there);
        match (&body.mask_image, pointed) {
            (Some(mask), None) => Ok(Self::Image(ImageInput::read("mask_image", mask, limits)?)),
            (None, Some(_)) => Ok(Self::Pointing(Pointing::of(body)?)),
            (Some(_), Some((field, _))) => Err(ContractError::field(
                field,
                "there is a `mask_image` too; a mask is sent, or made of what is pointed at",
            )),
            (None, None) => {
                let reason = "is missing; it may be left out beside `mask_points` or `mask_box`, of which a worker with a \
                              segmenter makes a mask";
                Err(ContractError::field("mask_image", reason))
            }
        }
    }
}

impl Pointing {
    fn of(body: &InpaintBody) -> Result<Self, ContractError> {
        let points = match (&body.mask_points, &body.mask_labels) {
            (None, None) => vec![],
            (None, Some(_)) => {
                return Err(ContractError::field(LABELS, "there are no `mask_points` that it could be of"));
            }
            (Some(points), labels) => labelled(points, labels.as_deref())?,
        };
        let around = body.mask_box.map(MaskBox::of).transpose()?;
        if around.is_none() && !points.iter().any(|point| point.is_on_it) {
            let reason = "all are 0: one point at least lies on what is repainted, or a `mask_box` around it";
            return Err(ContractError::field(LABELS, reason));
        }
        Ok(Self { points, around })
    }

    /// The points.
    pub fn points(&self) -> &[MaskPoint] {
        &self.points
    }

    /// The box.
    pub fn around(&self) -> Option<MaskBox> {
        self.around
    }

    /// The field that messages about the mask name.
    pub fn field(&self) -> &'static str {
        if self.points.is_empty() { BOX } else { POINTS }
    }

    /// The fields of a request that points at the same.
    pub fn write_into(&self, request: &mut serde_json::Value) {
        if !self.points.is_empty() {
            request[POINTS] = self.points.iter().map(|point| serde_json::json!([point.x, point.y])).collect();
            let label = |point: &MaskPoint| if point.is_on_it { ON_IT } else { BESIDE_IT };
            request[LABELS] = self.points.iter().map(label).collect();
        }
        if let Some(MaskBox { left, top, right, bottom }) = self.around {
            request[BOX] = serde_json::json!([left, top, right, bottom]);
        }
    }

    /// Whether all of it lies inside a picture of so many pixels.
    ///
    /// # Errors
    /// The point, or the box, that does not.
    pub fn check_inside(&self, (width, height): (u32, u32)) -> Result<(), ContractError> {
        let outside = |field: String, what: String| {
            let reason = format!("{what} lies outside of the picture, which has {width}x{height} pixels");
            Err(ContractError::field(field, reason))
        };
        for (index, MaskPoint { x, y, .. }) in self.points.iter().enumerate() {
            if *x >= width || *y >= height {
                return outside(format!("{POINTS}[{index}]"), format!("({x}, {y})"));
            }
        }
        match self.around {
            Some(MaskBox { left, top, right, bottom }) if right > width || bottom > height => {
                outside(BOX.to_owned(), format!("[{left}, {top}, {right}, {bottom}]"))
            }
            _ => Ok(()),
        }
    }
}

impl MaskBox {
    fn of([left, top, right, bottom]: [u32; 4]) -> Result<Self, ContractError> {
        if left < right && top < bottom {
            return Ok(Self { left, top, right, bottom });
        }
        let reason = format!(
            "[{left}, {top}, {right}, {bottom}] is empty; [left, top, right, bottom] is expected, with left below right and \
             top below bottom"
        );
        Err(ContractError::field(BOX, reason))
    }
}

fn labelled(points: &[[u32; 2]], labels: Option<&[u32]>) -> Result<Vec<MaskPoint>, ContractError> {
    if !(1..=MAX_MASK_POINTS).contains(&points.len()) {
        let reason = format!("{} of them; 1 to {MAX_MASK_POINTS} are allowed", points.len());
        return Err(ContractError::field(POINTS, reason));
    }
    if let Some(labels) = labels.filter(|labels| labels.len() != points.len()) {
        let reason = format!("{} of them, and {} of `{POINTS}`; each has one", labels.len(), points.len());
        return Err(ContractError::field(LABELS, reason));
    }
    let label = |index: usize| labels.map_or(ON_IT, |labels| labels[index]);
    let point = |(index, [x, y]): (usize, &[u32; 2])| match label(index) {
        ON_IT => Ok(MaskPoint { x: *x, y: *y, is_on_it: true }),
        BESIDE_IT => Ok(MaskPoint { x: *x, y: *y, is_on_it: false }),
        other => {
            let reason = format!("{other} is none; {ON_IT} lies on what is repainted, {BESIDE_IT} beside it");
            Err(ContractError::field(format!("{LABELS}[{index}]"), reason))
        }
    };
    points.iter().enumerate().map(point).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::contract::{Capability, Job, JobSource, Operation};

    fn operation(more: &Value) -> Result<Operation, ContractError> {
        let mut body = json!({"prompt": "a", "job_id": "j", "init_image": "AA=="});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Operation::parse(Some(Capability::Inpaint), body.to_string().as_bytes())
    }

    fn mask(more: Value) -> Result<MaskSource, ContractError> {
        let JobSource::Inpaint { mask, .. } = Job::new(operation(&more)?, &Limits::default())?.source else {
            unreachable!()
        };
        Ok(mask)
    }

    fn pointing(more: Value) -> Pointing {
        let MaskSource::Pointing(pointing) = mask(more).unwrap() else { unreachable!() };
        pointing
    }

    #[test]
    fn a_job_points_in_place_of_a_mask() {
        let on = |x, y| MaskPoint { x, y, is_on_it: true };
        let one = pointing(json!({"mask_points": [[3, 4]]}));
        assert_eq!((one.points(), one.around(), one.field()), (&[on(3, 4)][..], None, "mask_points"));
        let around = Some(MaskBox { left: 1, top: 2, right: 9, bottom: 8 });
        let all = pointing(
            json!({"mask_points": [[3, 4], [0, 0]], "mask_labels": [1, 0], "mask_box": [1, 2, 9, 8]}),
        );
        let beside = MaskPoint { x: 0, y: 0, is_on_it: false };
        assert_eq!((all.points(), all.around()), (&[on(3, 4), beside][..], around));
        let alone = pointing(json!({"mask_box": [1, 2, 9, 8]}));
        assert_eq!((alone.points(), alone.around(), alone.field()), (&[][..], around, "mask_box"));
        // A box says what is meant, and points may say what is not.
        pointing(json!({"mask_points": [[3, 4]], "mask_labels": [0], "mask_box": [1, 2, 9, 8]}));
        assert!(matches!(mask(json!({"mask_image": "AA==", "mask_points": null})), Ok(MaskSource::Image(_))));
    }

    #[test]
    fn what_is_written_points_at_the_same() {
        for more in [
            json!({"mask_points": [[3, 4], [0, 0]], "mask_labels": [1, 0], "mask_box": [1, 2, 9, 8]}),
            json!({"mask_points": [[3, 4]], "mask_labels": [1]}),
            json!({"mask_box": [1, 2, 9, 8]}),
        ] {
            let mut written = json!({});
            pointing(more.clone()).write_into(&mut written);
            assert_eq!(written, more);
        }
    }

    #[test]
    fn what_points_at_nothing_names_its_field() {
        for (more, says) in [
            (json!({}), "`mask_image`: is missing; it may be left out beside `mask_points`"),
            (
                json!({"mask_image": "AA==", "mask_points": [[1, 1]]}),
                "`mask_points`: there is a `mask_image`",
            ),
            (json!({"mask_image": "AA==", "mask_box": [0, 0, 1, 1]}), "`mask_box`: there is a `mask_image`"),
            (json!({"mask_image": "AA==", "mask_labels": [1]}), "`mask_labels`: there is a `mask_image`"),
            (json!({"mask_points": []}), "`mask_points`: 0 of them; 1 to 64"),
            (json!({"mask_points": vec![[1, 1]; 65]}), "`mask_points`: 65 of them; 1 to 64"),
            (json!({"mask_points": [[1, 1]], "mask_labels": [1, 0]}), "`mask_labels`: 2 of them, and 1 of"),
            (json!({"mask_points": [[1, 1]], "mask_labels": []}), "`mask_labels`: 0 of them, and 1 of"),
            (json!({"mask_points": [[1, 1]], "mask_labels": [2]}), "`mask_labels[0]`: 2 is none"),
            (json!({"mask_points": [[1, 1]], "mask_labels": [0]}), "`mask_labels`: all are 0"),
            (json!({"mask_labels": [1]}), "`mask_labels`: there are no `mask_points`"),
            (json!({"mask_points": [[1]]}), "`mask_points[0]`: must be a list of 2"),
            (
                json!({"mask_points": [[1, -1]]}),
                "`mask_points[0][1]`: must be a whole number that is not below 0",
            ),
            (json!({"mask_points": [1, 1]}), "`mask_points[0]`: must be a list of 2"),
            (json!({"mask_box": [5, 0, 5, 9]}), "`mask_box`: [5, 0, 5, 9] is empty"),
            (json!({"mask_box": [0, 9, 5, 1]}), "`mask_box`: [0, 9, 5, 1] is empty"),
            (json!({"mask_box": [0, 0, 5]}), "`mask_box`: must be a list of 4"),
        ] {
            let message = mask(more.clone()).unwrap_err().to_string();
            assert!(message.starts_with(says), "{more}: {message}");
        }
    }

    #[test]
    fn what_lies_outside_of_the_picture_is_told() {
        let inside = |more, size| pointing(more).check_inside(size).map_err(|error| error.to_string());
        assert_eq!(inside(json!({"mask_points": [[7, 3]], "mask_box": [0, 0, 8, 4]}), (8, 4)), Ok(()));
        for (more, says) in [
            (json!({"mask_points": [[0, 0], [8, 0]]}), "`mask_points[1]`: (8, 0) lies outside"),
            (json!({"mask_points": [[0, 4]]}), "`mask_points[0]`: (0, 4) lies outside"),
            (json!({"mask_box": [0, 0, 9, 4]}), "`mask_box`: [0, 0, 9, 4] lies outside"),
        ] {
            let said = inside(more, (8, 4)).unwrap_err();
            assert!(said.starts_with(says) && said.ends_with("has 8x4 pixels"), "{said}");
        }
    }

    #[test]
    fn the_fingerprint_sees_what_is_pointed_at_and_no_labels_are_labels_of_1() {
        let fingerprint = |more: Value| operation(&more).unwrap().fingerprint();
        let plain = fingerprint(json!({"mask_points": [[1, 2], [3, 4]]}));
        assert_eq!(plain, fingerprint(json!({"mask_points": [[1, 2], [3, 4]], "mask_labels": [1, 1]})));
        for more in [
            json!({"mask_points": [[1, 2], [3, 5]]}),
            json!({"mask_points": [[1, 2], [3, 4]], "mask_labels": [1, 0]}),
            json!({"mask_points": [[1, 2], [3, 4]], "mask_box": [0, 0, 9, 9]}),
        ] {
            assert_ne!(plain, fingerprint(more.clone()), "{more}");
        }
    }
}
