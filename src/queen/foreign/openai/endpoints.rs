//! Where OpenAI's endpoints are, and what is said of them.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::{
    ask::{EXTENSIONS, MAX_PARTIAL, TEXTS},
    edit, models,
};
use crate::{
    contract::Capability,
    http::endpoint::{Description, EVENT_STREAM, Endpoints, described, events_of, text},
    queen::{
        foreign::schemas::{RequestSchema, named, text_of},
        routes::Front,
    },
};

const FORM: &str = "multipart/form-data";

/// POST /v1/images/generations, POST /v1/images/edits, GET /v1/models, GET /v1/models/{id}.
pub(in crate::queen) fn endpoints() -> Endpoints<Front> {
    let there = |id| described(id, "Whether somebody is there.").gives_as(204, "somebody is", &[], text);
    Endpoints::new("OpenAI Images", error)
        .post(
            "/v1/images/generations",
            super::generate,
            drawing("createImage", "Draws pictures from words, and answers when they are there.")
                .takes(generation)
                .takes_as(FORM, generation),
        )
        .options("/v1/images/generations", super::what_there_is, there("optionsOfGenerations"))
        .post(
            "/v1/images/edits",
            super::edit,
            drawing("createImageEdit", "Draws a picture from another; with a mask, where it is transparent.")
                .takes(edit_in_json)
                .takes_as(FORM, edit_in_parts),
        )
        .options("/v1/images/edits", super::what_there_is, there("optionsOfEdits"))
        .post(
            "/v1/images/variations",
            super::variations,
            described("createImageVariation", "There are no variations, as at OpenAI itself.").errs(&[404]),
        )
        .get(
            "/v1/models",
            models::list,
            described("listModels", "What jobs may ask for, by its names.").gives(200, "the models", |generator| {
                let model = model(generator);
                json_schema!({
                    "type": "object", "required": ["object", "data"],
                    "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": model}},
                })
            }),
        )
        .get(
            "/v1/models/{*id}",
            models::one,
            described("getModel", "One of them.")
                .path("id", "Its name, which may have slashes.", text)
                .gives(200, "the model", model)
                .errs(&[404]),
        )
}

fn drawing(id: &'static str, summary: &'static str) -> Description {
    described(id, summary)
        .header("Idempotency-Key", "The job's id: sent again, it gives the same job.", text)
        .gives(200, "the pictures", pictures)
        .gives_as(200, "the pictures", &[EVENT_STREAM], events_of::<Value>)
        .errs(&[400, 404, 413, 415, 429, 503, 504])
}

pub(super) fn generation(generator: &mut SchemaGenerator) -> Schema {
    fields(Capability::Generate, generator).done(generator, "OpenAiGeneration", &["prompt"])
}

pub(super) fn edit_in_json(generator: &mut SchemaGenerator) -> Schema {
    let picture = |says: &str| {
        let url = json!({"type": "object", "properties": {"image_url": {"type": "string"}}, "required": ["image_url"]});
        json!({"description": says, "anyOf": [{"type": "string"}, url]})
    };
    fields(Capability::Inpaint, generator)
        .with(edit::IMAGE, picture("The picture: a data URL, or base64."))
        .with("images", json!({"type": "array", "maxItems": 1, "items": picture("The picture.")}))
        .with(edit::MASK, picture("What is transparent in it is drawn anew."))
        .done(generator, "OpenAiEdit", &["prompt"])
}

fn edit_in_parts(generator: &mut SchemaGenerator) -> Schema {
    let file = |says: &str| json!({"description": says, "contentMediaType": "application/octet-stream"});
    fields(Capability::Inpaint, generator)
        .with(edit::IMAGE, file("The picture."))
        .with(edit::MASK, file("What is transparent in it is drawn anew."))
        .done(generator, "OpenAiEditForm", &["prompt", edit::IMAGE])
}

/// The fields that generations and edits have.
fn fields(capability: Capability, generator: &mut SchemaGenerator) -> RequestSchema {
    let mut request = RequestSchema::of(capability, generator)
        .of_job("prompt", "prompt")
        .with("size", text_of("auto, or the width and height in pixels, as 1024x768."))
        .with("response_format", choice(&["b64_json", "url"]))
        .with("output_format", choice(&["png", "jpeg", "webp"]))
        .with("output_compression", json!({"type": "integer", "minimum": 0, "maximum": 100}))
        .with("background", choice(&["auto", "opaque"]))
        .with("stream", json!({"type": "boolean"}))
        .with("partial_images", json!({"type": "integer", "minimum": 0, "maximum": MAX_PARTIAL}));
    for (names, ours) in EXTENSIONS {
        request = names.iter().fold(request, |request, name| request.of_job(name, ours));
    }
    TEXTS.iter().fold(request, |request, name| request.of_job(name, name))
}

fn choice(of: &[&str]) -> Value {
    json!({"type": "string", "enum": of})
}

fn pictures(generator: &mut SchemaGenerator) -> Schema {
    let schema = json_schema!({
        "type": "object",
        "required": ["created", "data"],
        "properties": {
            "created": {"type": "integer", "description": "Seconds since 1970."},
            "size": {"type": "string"},
            "output_format": {"type": "string"},
            "warnings": {"type": "array", "items": {"type": "string"}},
            "usage": {"type": "object"},
            "data": {"type": "array", "items": {"type": "object", "required": ["seed"], "properties": {
                "b64_json": {"type": "string"}, "url": {"type": "string"}, "seed": {"type": "integer"},
            }}},
        },
    });
    named(generator, "OpenAiPictures", schema)
}

fn model(generator: &mut SchemaGenerator) -> Schema {
    let side = json!({"type": ["integer", "null"], "description": "Pixels."});
    let names = json!({"type": "array", "items": {"type": "string"}});
    let schema = json_schema!({
        "type": "object",
        "required": ["id", "object", "created", "owned_by"],
        "properties": {
            "id": {"type": "string"}, "object": {"const": "model"}, "created": {"type": "integer"},
            "owned_by": {"type": "string"}, "native_width": side, "native_height": side, "schedulers": names,
            "loras": names, "capabilities": names, "workers": {"type": "integer"},
            "alias_of": {"type": ["string", "null"]},
            "license": {"type": ["string", "null"], "description": "As the checkpoint names it."},
            "title": {"type": ["string", "null"], "description": "As the checkpoint calls itself."},
            "resolution": {"type": ["string", "null"], "description": "What the checkpoint says it was trained for."},
        },
    });
    named(generator, "OpenAiModel", schema)
}

fn error(generator: &mut SchemaGenerator) -> Schema {
    let text = json!({"type": ["string", "null"]});
    let schema = json_schema!({
        "type": "object",
        "required": ["error"],
        "properties": {"error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}, "param": text, "code": text},
        }},
    });
    named(generator, "OpenAiError", schema)
}
