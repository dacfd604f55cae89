//! The fields of a request: what is drawn, as an operation of ours, and how it is answered. What changes nothing here is
//! taken silently, what cannot be done is refused by its name.

use axum::http::HeaderValue;
use serde_json::{Map, Value, json};

use super::size;
use crate::{
    contract::{Capability, Operation},
    http::ApiError,
    queen::foreign::{Foreign, fields::Fields, refusal::field},
};

/// Known, and without a meaning here.
const WITHOUT_MEANING: [&str; 8] = [
    "user",
    "safety_identifier",
    "moderation",
    "quality",
    "style",
    "complexity",
    "input_fidelity",
    "prompt_cache_key",
];
/// What would give other pictures than are drawn here.
const NOT_DONE: [&str; 4] = ["markup", "frame_count", "frame_duration_ms", "svg"];
/// Partial pictures of a stream at most.
pub(super) const MAX_PARTIAL: u64 = 3;
/// Fields of peers beside OpenAI's, and ours.
pub(super) const EXTENSIONS: [(&[&str], &str); 9] = [
    (&["steps", "num_inference_steps", "step"], "steps"),
    (&["guidance_scale", "cfg_scale"], "guidance_scale"),
    (&["seed"], "seed"),
    (&["loras"], "loras"),
    (&["clip_skip"], "clip_skip"),
    (&["guidance_rescale"], "guidance_rescale"),
    (&["strength"], "strength"),
    (&["preview_every"], "preview_every"),
    (&["n"], "n"),
];
/// Texts, by the same names as ours.
pub(super) const TEXTS: [&str; 4] = ["model", "negative_prompt", "scheduler", "prompt_syntax"];

/// What a request asks for.
#[derive(Debug)]
pub(super) struct Ask {
    /// An edit's pictures are put into it later.
    pub operation: Operation,
    pub how: How,
    /// Of a stream: how many partial pictures.
    pub partial_images: Option<u32>,
    /// The fields that are not known.
    pub ignored: Option<HeaderValue>,
}

/// How pictures are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct How {
    /// As addresses, and not in base64.
    pub urls: bool,
    /// The size that was asked for.
    pub size: Option<(u32, u32)>,
}

impl Ask {
    /// Reads the fields that are not pictures.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn read(mut fields: Fields, capability: Capability, foreign: &Foreign) -> Result<Self, ApiError> {
        let options = &foreign.queen.shared.options;
        let has_urls = options.public_url.is_some() || foreign.queen.shared.store.presigns();
        Self::of(&mut fields, capability, has_urls)
    }

    fn of(fields: &mut Fields, capability: Capability, has_urls: bool) -> Result<Self, ApiError> {
        fields.pass_over(&WITHOUT_MEANING);
        refuse_what_is_not_done(fields)?;
        let urls = match fields.text("response_format")?.as_deref() {
            None | Some("b64_json") => false,
            Some("url") if has_urls => true,
            Some("url") => {
                let reason = "this queen has no addresses for pictures (--public-url, or a store on S3); ask for b64_json";
                return Err(field("response_format", reason));
            }
            Some(_) => return Err(field("response_format", "must be b64_json or url")),
        };
        let size = size::take(fields)?;
        let mut ours = Map::new();
        match fields.take_text("prompt") {
            Some(prompt) => drop(ours.insert("prompt".into(), prompt)),
            None => return Err(field("prompt", "is missing")),
        }
        if let Some(output) = output(fields)? {
            ours.insert("output".into(), output);
        }
        if let (Capability::Generate, Some((width, height))) = (capability, size) {
            ours.extend([("width".into(), json!(width)), ("height".into(), json!(height))]);
        }
        if capability != Capability::Generate {
            // The pictures are put in when they are read: they are large, and not looked at here.
            ours.insert("init_image".into(), json!(""));
        }
        if capability == Capability::Inpaint {
            ours.insert("mask_image".into(), json!(""));
        }
        for (names, name) in EXTENSIONS {
            if name != "strength" || capability != Capability::Generate {
                fields.hand_on(names, name, &mut ours);
            }
        }
        for name in TEXTS {
            fields.hand_on_text(name, name, &mut ours);
        }
        let partial_images = partial_images(fields, &mut ours)?;
        let operation = Operation::of_fields(capability, ours)?;
        Ok(Self { operation, how: How { urls, size }, partial_images, ignored: fields.ignored() })
    }
}

fn refuse_what_is_not_done(fields: &mut Fields) -> Result<(), ApiError> {
    match fields.text("background")?.as_deref() {
        None | Some("auto" | "opaque") => {}
        Some("transparent") => {
            return Err(field(
                "background",
                "no model here draws on a transparent ground; auto and opaque are taken",
            ));
        }
        Some(_) => return Err(field("background", "must be auto or opaque")),
    }
    for name in NOT_DONE {
        if fields.take(name).is_some_and(|value| value != json!({}) && value != json!(1)) {
            return Err(field(name, "is not done here; leave it out"));
        }
    }
    Ok(())
}

/// How pictures are encoded. The compression of OpenAI is the quality of a JPEG; PNG and WebP are lossless here.
fn output(fields: &mut Fields) -> Result<Option<Value>, ApiError> {
    let format = fields.text("output_format")?.map(|format| match format.to_ascii_lowercase().as_str() {
        "jpg" => "jpeg".to_owned(),
        _ => format,
    });
    let quality = fields.whole("output_compression", 0, 100)?.map(|quality| quality.max(1));
    Ok(match (format, quality) {
        (None, None) => None,
        // Lossless, so nothing is compressed away; the request stays the same as without.
        (None, Some(_)) => None,
        (Some(format), quality) if format == "jpeg" => Some(json!({"format": format, "quality": quality})),
        (Some(format), _) => Some(json!({"format": format})),
    })
}

/// The partial pictures of a stream; `None`: it is none. As many previews are asked for as are wanted, or of every step
/// where it is the model that decides on the steps.
fn partial_images(fields: &mut Fields, ours: &mut Map<String, Value>) -> Result<Option<u32>, ApiError> {
    let is_stream = fields.is_set("stream")?;
    let partial = fields.whole("partial_images", 0, MAX_PARTIAL)?.unwrap_or(0);
    if !is_stream {
        return Ok(None);
    }
    if partial > 0 {
        if ours.get("n").is_some_and(|n| n.as_f64() != Some(1.0)) {
            return Err(field(
                "partial_images",
                "a partial picture does not say which of several it is: ask for one (n: 1)",
            ));
        }
        let steps = ours.get("steps").and_then(Value::as_u64);
        let every = steps.map_or(1, |steps| steps.div_ceil(partial + 1).max(1));
        ours.entry("preview_every").or_insert(json!(every));
    }
    Ok(Some(u32::try_from(partial).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        http::endpoint::SchemaOf,
        queen::foreign::{
            openai::{edit, endpoints},
            schemas,
        },
    };

    fn ask(capability: Capability, body: Value) -> Result<Ask, ApiError> {
        let Value::Object(fields) = body else { panic!("{body}") };
        Ask::of(&mut Fields::of_json(fields), capability, false)
    }

    fn drawn(body: Value) -> Value {
        serde_json::to_value(ask(Capability::Generate, body).unwrap().operation).unwrap()
    }

    #[test]
    fn what_the_package_sends_is_a_generation() {
        let body = json!({"prompt": "a", "model": "tiny", "n": 2, "size": "512x768", "quality": "high",
            "response_format": "b64_json", "output_format": "jpeg", "output_compression": 80, "background": "auto",
            "moderation": "low", "user": "u", "style": "vivid"});
        let expected = json!({"operation": "image_generation", "prompt": "a", "model": "tiny", "n": 2, "width": 512,
            "height": 768, "output": {"format": "jpeg", "quality": 80}});
        assert_eq!(drawn(body.clone()), expected);
        assert_eq!(ask(Capability::Generate, body).unwrap().ignored, None);
    }

    #[test]
    fn every_field_that_the_document_names_is_read() {
        for (name, schema, capability) in [
            ("OpenAiGeneration", endpoints::generation as SchemaOf, Capability::Generate),
            ("OpenAiEdit", endpoints::edit_in_json, Capability::Inpaint),
        ] {
            let mut said = schemas::properties(name, schema);
            said.extend([("prompt".into(), json!("a")), ("image".into(), json!("AA=="))]);
            let mut fields = Fields::of_json(said);
            if capability == Capability::Inpaint {
                edit::inputs(&mut fields, vec![]).unwrap();
            } else {
                fields.pass_over(&["image"]);
            }
            assert_eq!(Ask::of(&mut fields, capability, false).unwrap().ignored, None, "{name}");
        }
    }

    #[test]
    fn extensions_are_taken_by_the_names_that_peers_use() {
        let body = json!({"prompt": "a", "num_inference_steps": 7, "cfg_scale": 3, "seed": -1, "negative_prompt": "b",
            "scheduler": "euler", "loras": [{"path": "ink"}], "clip_skip": 1, "prompt_syntax": "a1111",
            "guidance_rescale": 0.7, "new": 1});
        let expected = json!({"operation": "image_generation", "prompt": "a", "steps": 7, "guidance_scale": 3.0,
            "negative_prompt": "b", "scheduler": "euler", "loras": [{"path": "ink"}], "clip_skip": 1,
            "prompt_syntax": "a1111", "guidance_rescale": 0.7});
        assert_eq!(drawn(body.clone()), expected);
        assert_eq!(ask(Capability::Generate, body).unwrap().ignored.unwrap(), "new");
        assert_eq!(drawn(json!({"prompt": "a", "step": 4}))["steps"], 4);
    }

    #[test]
    fn a_compression_without_jpeg_changes_nothing() {
        for format in [json!({}), json!({"output_format": "png"})] {
            let mut body = json!({"prompt": "a", "output_compression": 100});
            body.as_object_mut().unwrap().extend(format.as_object().unwrap().clone());
            let operation = ask(Capability::Generate, body).unwrap().operation;
            let plain = ask(Capability::Generate, json!({"prompt": "a"})).unwrap().operation;
            assert_eq!(operation.fingerprint(), plain.fingerprint());
        }
        let body = json!({"prompt": "a", "output_format": "jpg", "output_compression": 0});
        assert_eq!(drawn(body)["output"], json!({"format": "jpeg", "quality": 1}));
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_its_name() {
        for (field, value) in [
            ("background", json!("transparent")),
            ("background", json!("green")),
            ("output_format", json!("gif")),
            ("output_format", json!("svg")),
            ("output_compression", json!(101)),
            ("frame_count", json!(8)),
            ("svg", json!({"precision": 2})),
            ("markup", json!("circle")),
            ("response_format", json!("url")),
            ("response_format", json!("png")),
            ("n", json!("two")),
            ("n", json!(1.5)),
            ("steps", json!("many")),
            ("size", json!("big")),
            ("stream", json!("yes")),
            ("prompt", json!(7)),
            ("prompt", json!("")),
            ("model", json!(["a"])),
        ] {
            let mut body = json!({"prompt": "a"});
            body[field] = value.clone();
            let error = ask(Capability::Generate, body).unwrap_err();
            assert_eq!(error.status, 400, "{field}: {value}: {error}");
            let ours = if field == "output_format" { "output.format" } else { field };
            assert!(error.message.starts_with(&format!("`{ours}`: ")), "{value}: {error}");
        }
    }

    #[test]
    fn a_stream_asks_for_as_many_previews_as_it_shows() {
        let streamed = |body: Value| {
            let ask = ask(Capability::Generate, body).unwrap();
            let operation = serde_json::to_value(ask.operation).unwrap();
            (ask.partial_images, operation["preview_every"].as_u64())
        };
        assert_eq!(streamed(json!({"prompt": "a", "stream": true})), (Some(0), None));
        let three = json!({"prompt": "a", "stream": true, "partial_images": 3, "steps": 20, "n": 1});
        assert_eq!(streamed(three), (Some(3), Some(5)));
        assert_eq!(streamed(json!({"prompt": "a", "stream": true, "partial_images": 2})), (Some(2), Some(1)));
        assert_eq!(streamed(json!({"prompt": "a", "partial_images": 2})), (None, None));
        let many = json!({"prompt": "a", "stream": true, "partial_images": 1, "n": 2});
        assert!(ask(Capability::Generate, many).unwrap_err().message.starts_with("`partial_images`"));
    }
}
