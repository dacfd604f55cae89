//! What was switched on and cannot be done: it is refused by name, as a picture without it would be another one. The same
//! fields switched off are how most clients send every request.

use serde_json::Value;

use crate::{
    http::ApiError,
    queen::foreign::{fields::Fields, refusal::field},
};

/// Switches.
const SWITCHES: [&str; 3] = ["enable_hr", "restore_faces", "tiling"];
/// Names of what is added.
const NAMES: [&str; 2] = ["script_name", "refiner_checkpoint"];
/// The most of a name that a message repeats, in characters.
const MAX_SHOWN: usize = 40;

/// Takes the fields that switch something on.
///
/// # Errors
/// Something is switched on.
pub(super) fn refuse(fields: &mut Fields) -> Result<(), ApiError> {
    for name in SWITCHES {
        if fields.is_set(name)? {
            return Err(field(name, "is not done here; switch it off"));
        }
    }
    for name in NAMES {
        if let Some(what) = fields.text(name)?.filter(|text| !text.eq_ignore_ascii_case("none")) {
            return Err(field(name, format!("there is no `{}` here", shown(&what))));
        }
    }
    if fields.take("subseed_strength").and_then(|value| value.as_f64()).is_some_and(|strength| strength > 0.0)
    {
        return Err(field("subseed_strength", "variations of a seed are not drawn here; 0 is"));
    }
    let scripts = match fields.take("alwayson_scripts") {
        None => return Ok(()),
        Some(Value::Object(scripts)) => scripts,
        Some(Value::Array(scripts)) if scripts.is_empty() => return Ok(()),
        Some(_) => return Err(field("alwayson_scripts", "must be an object")),
    };
    match scripts.iter().find(|(_, script)| is_on(script)) {
        None => Ok(()),
        Some((name, _)) => {
            let name = shown(name);
            Err(field(
                "alwayson_scripts",
                format!("always on script {name} not found: there are no scripts here"),
            ))
        }
    }
}

/// Whether a script would do something: it has arguments, and neither the first one nor each of its units says that it is
/// off.
fn is_on(script: &Value) -> bool {
    let args = match script.get("args").unwrap_or(script) {
        Value::Array(args) => args.as_slice(),
        Value::Object(units) if !units.is_empty() => return true,
        _ => return false,
    };
    let is_off = |unit: &Value| match unit {
        Value::Null | Value::Bool(false) => true,
        Value::Object(unit) => {
            ["enabled", "is_enabled"].iter().any(|name| unit.get(*name) == Some(&Value::Bool(false)))
        }
        _ => false,
    };
    args.first().is_some_and(|first| *first != Value::Bool(false)) && !args.iter().all(is_off)
}

fn shown(name: &str) -> String {
    name.chars().take(MAX_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(body: Value) -> Result<(), String> {
        let Value::Object(body) = body else { panic!("{body}") };
        refuse(&mut Fields::of_json(body)).map_err(|error| error.message)
    }

    #[test]
    fn everything_switched_off_is_no_wish() {
        for body in [
            json!({}),
            json!({"enable_hr": false, "restore_faces": false, "tiling": null, "script_name": null,
                "script_args": [], "subseed_strength": 0, "refiner_checkpoint": "None", "alwayson_scripts": {}}),
            json!({"alwayson_scripts": {"ControlNet": {"args": []}, "ADetailer": {"args": [false]}}}),
            json!({"alwayson_scripts": {"ControlNet": {"args": [{"enabled": false, "model": "x"}, null]}}}),
            json!({"alwayson_scripts": {"Soft Inpainting": {"args": [false, 1, 0.5]}}, "script_name": ""}),
            json!({"alwayson_scripts": []}),
        ] {
            assert_eq!(of(body.clone()), Ok(()), "{body}");
        }
    }

    #[test]
    fn what_is_switched_on_is_refused_by_its_name() {
        for (body, says) in [
            (json!({"enable_hr": true}), "`enable_hr`: "),
            (json!({"restore_faces": true}), "`restore_faces`: "),
            (json!({"tiling": true}), "`tiling`: "),
            (json!({"script_name": "x/y/z plot"}), "`script_name`: there is no `x/y/z plot`"),
            (json!({"refiner_checkpoint": "xl"}), "`refiner_checkpoint`: "),
            (json!({"subseed_strength": 0.1}), "`subseed_strength`: "),
            (
                json!({"alwayson_scripts": {"ControlNet": {"args": [{"model": "x"}]}}}),
                "`alwayson_scripts`: always on script ControlNet",
            ),
            (
                json!({"alwayson_scripts": {"ADetailer": {"args": [true, {"ad_model": "x"}]}}}),
                "`alwayson_scripts`: ",
            ),
            (json!({"alwayson_scripts": "x"}), "`alwayson_scripts`: must be an object"),
        ] {
            let said = of(body.clone()).unwrap_err();
            assert!(said.starts_with(says), "{body}: {said}");
        }
    }
}
