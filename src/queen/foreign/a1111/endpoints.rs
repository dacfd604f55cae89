//! Where A1111's endpoints are, and what is said of them.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::json;

use super::{draw, lists, options, png, progress};
use crate::{
    contract::Capability,
    http::endpoint::{Description, Endpoints, described, text},
    queen::{
        foreign::schemas::{RequestSchema, anything, named, object, text_of},
        routes::Front,
    },
};

/// /sdapi/v1/* and /internal/ping.
pub(in crate::queen) fn endpoints() -> Endpoints<Front> {
    let ended = |id, summary| {
        described(id, summary)
            .query("force_task_id", "The one call that is meant; without, all of the client.", text)
            .gives(200, "it is done", object)
    };
    let none = |id| described(id, "There are no upscalers.").takes(object).errs(&[400]);
    let endpoints = Endpoints::new("A1111", error)
        .post(
            "/sdapi/v1/txt2img",
            draw::txt2img,
            drawing("txt2img", "Draws pictures from words, and answers when they are there.")
                .takes(from_words),
        )
        .post(
            "/sdapi/v1/img2img",
            draw::img2img,
            drawing("img2img", "Draws pictures from a picture; with a mask, where it is white.")
                .takes(from_a_picture),
        )
        .get(
            "/sdapi/v1/progress",
            progress::progress,
            described("progress", "How far the client's oldest call is.")
                .query("skip_current_image", "true: without its preview.", text)
                .gives(200, "how far", object),
        )
        .post("/sdapi/v1/interrupt", progress::interrupt, ended("interrupt", "Ends the client's calls."))
        .post("/sdapi/v1/skip", progress::interrupt, ended("skip", "As interrupt."))
        .get(
            "/sdapi/v1/options",
            options::read,
            described("getOptions", "The options that clients read.").gives(200, "the options", object),
        )
        .post(
            "/sdapi/v1/options",
            options::set,
            described("setOptions", "Sets the model of a client that names none; other options stay.")
                .takes(|_| {
                    let model = text_of("A model, by any of its names.");
                    json_schema!({"type": "object", "properties": {"sd_model_checkpoint": model}})
                })
                .gives(200, "null", anything)
                .errs(&[400, 404, 422]),
        )
        .post(
            "/sdapi/v1/png-info",
            png::info,
            described("pngInfo", "The texts of a PNG, and what they say.")
                .takes(|_| {
                    let image = text_of("The PNG in base64.");
                    json_schema!({"type": "object", "properties": {"image": image}, "required": ["image"]})
                })
                .gives(200, "the texts", object)
                .errs(&[400, 413, 422]),
        )
        .post("/sdapi/v1/extra-single-image", lists::no_upscaler, none("extraSingleImage"))
        .post("/sdapi/v1/extra-batch-images", lists::no_upscaler, none("extraBatchImages"))
        .get(
            "/internal/ping",
            lists::ping,
            described("ping", "Whether somebody is there.").gives(200, "somebody is", object),
        );
    lists::add_to(endpoints)
}

fn drawing(id: &'static str, summary: &'static str) -> Description {
    described(id, summary)
        .header("Idempotency-Key", "The job's id: sent again, it gives the same job.", text)
        .gives(200, "the pictures", pictures)
        .errs(&[400, 404, 413, 422, 503, 504])
}

pub(super) fn from_words(generator: &mut SchemaGenerator) -> Schema {
    fields(Capability::Generate, generator).of_job("width", "width").of_job("height", "height").done(
        generator,
        "A1111Txt2Img",
        &[],
    )
}

pub(super) fn from_a_picture(generator: &mut SchemaGenerator) -> Schema {
    let pictures = json!({"type": "array", "items": {"type": "string"}, "minItems": 1,
        "description": "Pictures in base64, of which the first is drawn from."});
    fields(Capability::Inpaint, generator)
        .with("init_images", pictures)
        .with("mask", text_of("In base64: what is white is drawn anew."))
        .of_job("width", "width")
        .of_job("height", "height")
        .of_job("denoising_strength", "strength")
        .of_job("mask_blur", "mask_blur")
        .of_job("inpaint_full_res_padding", "padding_mask_crop")
        .with(
            "inpaint_full_res",
            json!({"type": "boolean", "description": "The part around the mask alone is drawn."}),
        )
        .with("inpainting_mask_invert", json!({"type": "integer", "enum": [0, 1]}))
        .with("resize_mode", json!({"type": "integer", "minimum": 0, "maximum": 2}))
        .done(generator, "A1111Img2Img", &["init_images"])
}

/// The fields that both have.
fn fields(capability: Capability, generator: &mut SchemaGenerator) -> RequestSchema {
    let count = json!({"type": "integer", "minimum": 1, "maximum": 8});
    RequestSchema::of(capability, generator)
        .with("prompt", text_of("What to draw, with A1111's weights and `<lora:name:strength>`."))
        .of_job("negative_prompt", "negative_prompt")
        .of_job("steps", "steps")
        .of_job("cfg_scale", "guidance_scale")
        .of_job("seed", "seed")
        .with("sampler_name", text_of("As GET /sdapi/v1/samplers lists them."))
        .with("scheduler", text_of("As GET /sdapi/v1/schedulers lists them."))
        .with("batch_size", count.clone())
        .with("n_iter", count)
        .with("send_images", json!({"type": "boolean"}))
        .with("force_task_id", text_of("What the client calls it."))
        .with("override_settings", json!({"type": "object"}))
}

fn pictures(generator: &mut SchemaGenerator) -> Schema {
    let schema = json_schema!({
        "type": "object",
        "required": ["images", "parameters", "info"],
        "properties": {
            "images": {"type": "array", "items": {"type": "string"}, "description": "In base64."},
            "parameters": {"type": "object"},
            "info": {"type": "string", "description": "JSON in a text."},
        },
    });
    named(generator, "A1111Pictures", schema)
}

fn error(generator: &mut SchemaGenerator) -> Schema {
    let schema = json_schema!({
        "type": "object",
        "required": ["error", "detail", "body", "errors"],
        "properties": {
            "error": {"type": "string"}, "detail": {}, "body": {"type": "string"}, "errors": {"type": "string"},
        },
    });
    named(generator, "A1111Error", schema)
}
