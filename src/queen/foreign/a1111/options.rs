//! Options: what clients read of them, and the one that is set here, the model of a client that names none.

use axum::{
    Extension, Json,
    extract::{Request, State},
};
use serde_json::{Value, json};

use super::A1111;
use crate::{http::ApiError, queen::auth::Client};

/// GET /sdapi/v1/options.
pub(super) async fn read(State(door): State<A1111>, Extension(client): Extension<Client>) -> Json<Value> {
    let chosen = door.clients.model(&client);
    let model = chosen.or_else(|| door.foreign.pool().models.into_iter().next());
    Json(json!({
        "sd_model_checkpoint": model,
        "sd_checkpoint_hash": "",
        "sd_vae": "Automatic",
        "CLIP_stop_at_last_layers": 1,
        "samples_format": "png",
        "grid_format": "png",
        "return_grid": false,
        "show_progress_every_n_steps": 3,
        "live_previews_enable": true,
        "live_previews_image_format": "jpeg",
        "randn_source": "CPU",
        "upscaler_for_img2img": null,
        "sd_lora": "None",
        "eta_noise_seed_delta": 0,
    }))
}

/// POST /sdapi/v1/options. Some send all options back, of which the model may be another one; the rest is left as it is.
///
/// # Errors
/// There is no such model.
pub(super) async fn set(
    State(door): State<A1111>,
    Extension(client): Extension<Client>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let (mut fields, _) = door.foreign.read(request, &[]).await?;
    if let Some(asked) = fields.text("sd_model_checkpoint")? {
        let model = door.foreign.pool().model(&asked)?;
        tracing::debug!(?client, model, "a client has chosen a model");
        door.clients.choose(&client, model);
    }
    Ok(Json(Value::Null))
}
