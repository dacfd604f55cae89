//! Errors as A1111 has them: `{error, detail, body, errors}`; what is wrong with a field has status 422, and `detail` is the
//! list that FastAPI makes of it. Fields have the names that its clients know.

use axum::http::{HeaderValue, StatusCode, header::WWW_AUTHENTICATE, response::Parts};
use serde_json::{Value, json};

use crate::{contract::ErrorCode, http::ApiError};

/// Our fields under A1111's names.
const NAMES: [(&str, &str); 10] = [
    ("init_image", "init_images"),
    ("mask_image", "mask"),
    ("guidance_scale", "cfg_scale"),
    ("strength", "denoising_strength"),
    ("n", "batch_size"),
    ("scheduler", SAMPLER),
    ("padding_mask_crop", "inpaint_full_res_padding"),
    ("model", "sd_model_checkpoint"),
    ("job_id", "Idempotency-Key"),
    ("loras", "prompt"),
];
/// What A1111 answers with 400 where every other field has 422.
const SAMPLER: &str = "sampler_name";

/// The body of an answer that is no success.
pub(in crate::queen::foreign) fn refusal(error: &ApiError) -> Value {
    let code = json!(error.body().error.code);
    let (field, message) = named(&error.message);
    let detail = match field {
        Some(field) if status(error).is_some() => {
            json!([{"loc": ["body", field], "msg": message, "type": "value_error"}])
        }
        _ => json!(message),
    };
    json!({"error": code, "detail": detail, "body": "", "errors": message})
}

/// What an answer has beside its body: A1111's status, and where a token is asked for the way that its clients send one.
pub(in crate::queen::foreign) fn speaks(error: &ApiError, parts: &mut Parts) {
    if let Some(status) = status(error) {
        parts.status = status;
    }
    if parts.status == StatusCode::UNAUTHORIZED {
        parts.headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"rbee\""));
    }
}

/// The status that A1111 has for an error, where it is another one than ours.
fn status(error: &ApiError) -> Option<StatusCode> {
    let (field, _) = named(&error.message);
    let is_of_a_field =
        error.status == 400 && matches!(error.code, ErrorCode::InvalidRequest | ErrorCode::ImageInvalid);
    (is_of_a_field && field.is_some_and(|field| field != SAMPLER)).then_some(StatusCode::UNPROCESSABLE_ENTITY)
}

/// The field that a message begins with, and the message, both with the name that A1111's clients know.
fn named(message: &str) -> (Option<String>, String) {
    let found = message.strip_prefix('`').and_then(|rest| rest.split_once("`: "));
    let Some((field, reason)) = found else { return (None, message.to_owned()) };
    // `loras[0].path` is of what was cut out of the prompt.
    let whole = if field.starts_with("loras[") { "loras" } else { field };
    let theirs = NAMES.iter().find(|(ours, _)| *ours == whole).map_or(field, |(_, theirs)| theirs);
    (Some(theirs.to_owned()), format!("`{theirs}`: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::HttpCode;

    fn invalid(message: &str) -> ApiError {
        ApiError::new(ErrorCode::InvalidRequest, message)
    }

    #[test]
    fn what_is_wrong_with_a_field_is_a_list_that_names_it_as_its_sender_does() {
        for (ours, theirs) in [
            ("`guidance_scale`: 31 is out of bounds", "cfg_scale"),
            ("`strength`: 0 is out of bounds", "denoising_strength"),
            ("`init_image`: it is empty", "init_images"),
            ("`loras[0].path`: no worker that is up has a LoRA `x`", "prompt"),
            ("`steps`: 0 is out of bounds", "steps"),
        ] {
            let error = invalid(ours);
            assert_eq!(status(&error), Some(StatusCode::UNPROCESSABLE_ENTITY), "{ours}");
            let body = refusal(&error);
            assert_eq!(body["detail"][0]["loc"], json!(["body", theirs]));
            assert!(body["errors"].as_str().unwrap().starts_with(&format!("`{theirs}`: ")), "{body}");
        }
    }

    #[test]
    fn everything_else_is_a_text_with_its_own_status() {
        let sampler = invalid("`sampler_name`: there is no `DPM2`");
        assert_eq!((status(&sampler), &refusal(&sampler)["detail"]), (None, &json!(sampler.message)));
        let token = ApiError::of_request(HttpCode::Unauthorized, "this queen asks for a token");
        assert_eq!(status(&token), None);
        assert_eq!(
            refusal(&token),
            json!({"error": "unauthorized", "detail": token.message, "body": "", "errors": token.message})
        );
        let gone = ApiError::new(ErrorCode::UnsupportedModel, "`model`: there is no `x`");
        assert_eq!(status(&gone), None, "404 stays");
    }
}
