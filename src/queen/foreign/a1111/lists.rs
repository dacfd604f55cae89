//! Everything that clients list when they start. What there is none of is listed as empty: a list that is missing makes some
//! of them give up the others, too.

use axum::{Json, extract::State};
use serde_json::{Value, json};

use super::{A1111, samplers};
use crate::{
    contract::ErrorCode,
    http::{
        ApiError,
        endpoint::{Endpoints, SchemaOf, described},
    },
    queen::{
        foreign::schemas::{anything, array, object},
        routes::Front,
    },
};

/// Lists that are always empty.
const EMPTY: [&str; 9] = [
    "latent-upscale-modes",
    "sd-vae",
    "sd-modules",
    "hypernetworks",
    "face-restorers",
    "realesrgan-models",
    "prompt-styles",
    "script-info",
    "extensions",
];
/// What there is to be read again: workers say what they have by themselves.
const REFRESHED: [&str; 5] =
    ["refresh-checkpoints", "refresh-vae", "refresh-loras", "refresh-embeddings", "reload-checkpoint"];

/// The lists, and what there is to be read again.
pub(super) fn add_to(endpoints: Endpoints<Front>) -> Endpoints<Front> {
    let fixed = |value: Value| move || async move { Json(value) };
    let said = |name: &str, of: SchemaOf| {
        described(format!("a1111-{name}"), "What there is.").gives(200, "a list", of)
    };
    let endpoints = EMPTY
        .into_iter()
        .fold(endpoints, |endpoints, name| endpoints.get(path(name), fixed(json!([])), said(name, array)));
    let endpoints = REFRESHED.into_iter().fold(endpoints, |endpoints, name| {
        let nothing = described(format!("a1111-{name}"), "Changes nothing: workers say what they have.");
        endpoints.post(path(name), || async { Json(Value::Null) }, nothing.gives(200, "null", anything))
    });
    endpoints
        .get(path("samplers"), fixed(samplers::list()), said("samplers", array))
        .get(path("schedulers"), fixed(samplers::schedulers()), said("schedulers", array))
        .get(path("sd-models"), models, said("sd-models", array))
        .get(path("loras"), loras, said("loras", array))
        .get(path("upscalers"), fixed(upscalers()), said("upscalers", array))
        .get(path("scripts"), fixed(json!({"txt2img": [], "img2img": []})), said("scripts", object))
        .get(path("embeddings"), fixed(json!({"loaded": {}, "skipped": {}})), said("embeddings", object))
        .get(path("cmd-flags"), fixed(json!({"api": true, "listen": false})), said("cmd-flags", object))
        .get(path("memory"), fixed(memory()), said("memory", object))
}

fn path(name: &str) -> String {
    format!("/sdapi/v1/{name}")
}

/// `None` alone, which every list of upscalers begins with.
fn upscalers() -> Value {
    json!([{"name": "None", "model_name": null, "model_path": null, "model_url": null, "scale": 4.0}])
}

/// Pictures are drawn by workers, each on a machine of its own: GET /v1/workers and their metrics say what they have.
fn memory() -> Value {
    let elsewhere = json!({"error": "pictures are drawn by workers; their /metrics have it"});
    json!({"ram": elsewhere, "cuda": elsewhere})
}

async fn models(State(door): State<A1111>) -> Json<Value> {
    let entry = |name: &String| json!({"title": name, "model_name": name, "hash": null, "sha256": null, "filename": name, "config": null});
    Json(door.foreign.pool().models.iter().map(entry).collect())
}

async fn loras(State(door): State<A1111>) -> Json<Value> {
    let entry = |name: &String| json!({"name": name, "alias": name, "path": name, "metadata": {}});
    Json(door.foreign.pool().loras.iter().map(entry).collect())
}

/// GET /internal/ping.
pub(super) async fn ping() -> Json<Value> {
    Json(json!({}))
}

/// POST /sdapi/v1/extra-single-image.
pub(super) async fn no_upscaler() -> ApiError {
    let reason = "`upscaler_1`: there are no upscalers here; draw the picture larger, or img2img with another width and height";
    ApiError::new(ErrorCode::InvalidRequest, reason)
}
