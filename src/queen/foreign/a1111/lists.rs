//! Everything that clients list when they start. What there is none of is listed as empty: a list that is missing makes some
//! of them give up the others, too.

use axum::{
    Json, Router,
    extract::State,
    routing::{MethodRouter, get, post},
};
use serde_json::{Value, json};

use super::{Door, samplers};
use crate::{contract::ErrorCode, http::ApiError};

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

/// The lists.
pub(super) fn routes() -> Router<Door> {
    let path = |name: &str| format!("/sdapi/v1/{name}");
    let empty =
        EMPTY.into_iter().fold(Router::new(), |router, name| router.route(&path(name), fixed(json!([]))));
    let all = REFRESHED
        .into_iter()
        .fold(empty, |router, name| router.route(&path(name), post(|| async { Json(Value::Null) })));
    all.route(&path("samplers"), fixed(samplers::list()))
        .route(&path("schedulers"), fixed(samplers::schedulers()))
        .route(&path("sd-models"), get(models))
        .route(&path("loras"), get(loras))
        .route(&path("upscalers"), fixed(upscalers()))
        .route(&path("scripts"), fixed(json!({"txt2img": [], "img2img": []})))
        .route(&path("embeddings"), fixed(json!({"loaded": {}, "skipped": {}})))
        .route(&path("cmd-flags"), fixed(json!({"api": true, "listen": false})))
        .route(&path("memory"), fixed(memory()))
}

fn fixed(value: Value) -> MethodRouter<Door> {
    get(move || async move { Json(value) })
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

async fn models(State(door): State<Door>) -> Json<Value> {
    let entry = |name: &String| json!({"title": name, "model_name": name, "hash": null, "sha256": null, "filename": name, "config": null});
    Json(door.foreign.pool().models.iter().map(entry).collect())
}

async fn loras(State(door): State<Door>) -> Json<Value> {
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
