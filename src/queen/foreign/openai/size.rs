//! Sizes as OpenAI writes them: `auto`, or `1024x768`. A side that no model draws is refused and not rounded.

use serde_json::Value;

use crate::{
    contract::limits::{MAX_SIDE, MIN_SIDE, SIDE_MULTIPLE},
    http::ApiError,
    queen::foreign::{fields::Fields, refusal::field},
};

/// Takes the field `size`: width and height in pixels; `None` for `auto`, and where it is not there.
///
/// # Errors
/// It is no size, or one that is not drawn.
pub(super) fn take(fields: &mut Fields) -> Result<Option<(u32, u32)>, ApiError> {
    let says = format!(
        "must be auto or WIDTHxHEIGHT, such as 1024x768: sides of {MIN_SIDE} to {MAX_SIDE} that are multiples of \
         {SIDE_MULTIPLE}"
    );
    let text = match fields.take_text("size") {
        None => return Ok(None),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("auto") => return Ok(None),
        Some(Value::String(text)) => text,
        Some(_) => return Err(field("size", says)),
    };
    let side = |text: &str| {
        let side = text.trim().parse::<u32>().ok()?;
        ((MIN_SIDE..=MAX_SIDE).contains(&side) && side.is_multiple_of(SIDE_MULTIPLE)).then_some(side)
    };
    let sides = text.split_once(['x', 'X']).and_then(|(width, height)| Some((side(width)?, side(height)?)));
    sides.map(Some).ok_or_else(|| field("size", says))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn size(value: Value) -> Result<Option<(u32, u32)>, ApiError> {
        take(&mut Fields::of_json([("size".to_owned(), value)].into_iter().collect()))
    }

    #[test]
    fn a_size_is_auto_or_two_sides_that_can_be_drawn() {
        for auto in [json!("auto"), json!("AUTO"), json!(""), Value::Null] {
            assert_eq!(size(auto.clone()), Ok(None), "{auto}");
        }
        assert_eq!(size(json!("1792x1024")), Ok(Some((1792, 1024))));
        assert_eq!(size(json!("64X2048")), Ok(Some((64, 2048))));
        for bad in [
            json!("1024"),
            json!("x"),
            json!("1000x1001"),
            json!("56x64"),
            json!("2056x64"),
            json!("-64x64"),
            json!("64x64x64"),
            json!("99999999999x64"),
            json!(512),
            json!(["64x64"]),
            json!("large"),
        ] {
            let error = size(bad.clone()).unwrap_err();
            assert!(
                error.status == 400 && error.message.starts_with("`size`: must be auto or"),
                "{bad}: {error}"
            );
        }
    }
}
