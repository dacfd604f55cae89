//! Errors as OpenAI has them: `message`, `type`, `param`, `code`. Fields have the names that its clients know.

use serde_json::{Value, json};

use crate::{
    contract::{ErrorCode, HttpCode, WireCode},
    http::ApiError,
};

/// Our fields under OpenAI's names.
const NAMES: [(&str, &str); 6] = [
    ("init_image", "image"),
    ("mask_image", "mask"),
    ("width", "size"),
    ("height", "size"),
    ("output.format", "output_format"),
    ("output.quality", "output_compression"),
];
/// Of a job's id, which came in a header.
const JOB_ID: &str = "job_id";
/// Its name there.
const KEY: &str = "Idempotency-Key";

/// The body of an answer that is no success.
pub(in crate::queen::foreign) fn refusal(error: &ApiError) -> Value {
    let (param, message) = named(&error.message);
    let code = match error.body().error.code {
        WireCode::Job(ErrorCode::UnsupportedModel) => json!("model_not_found"),
        WireCode::Http(HttpCode::Unauthorized) => json!("invalid_api_key"),
        WireCode::Http(HttpCode::RateLimited) => json!("rate_limit_exceeded"),
        code => json!(code),
    };
    let kind = match error.status {
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}

/// The field that a message begins with, and the message, both with the name that OpenAI's clients know.
fn named(message: &str) -> (Option<String>, String) {
    let found = message.strip_prefix('`').and_then(|rest| rest.split_once("`: "));
    let Some((field, reason)) = found else { return (None, message.to_owned()) };
    let theirs = match field {
        JOB_ID => KEY,
        _ => NAMES.iter().find(|(ours, _)| *ours == field).map_or(field, |(_, theirs)| theirs),
    };
    (Some(theirs.to_owned()), format!("`{theirs}`: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_field_that_its_sender_knows() {
        for (ours, theirs) in [
            ("`init_image`: it is empty", "image"),
            ("`output.quality`: 0 is out of bounds", "output_compression"),
            ("`job_id`: `a` is the id of another request", "Idempotency-Key"),
            ("`loras[0].path`: is missing", "loras[0].path"),
        ] {
            let error = refusal(&ApiError::new(ErrorCode::InvalidRequest, ours));
            assert_eq!(error["error"]["param"], theirs);
            assert!(error["error"]["message"].as_str().unwrap().starts_with(&format!("`{theirs}`: ")));
        }
        let error = refusal(&ApiError::new(ErrorCode::Internal, "no field"));
        assert_eq!(
            error["error"],
            json!({"message": "no field", "type": "server_error", "param": null, "code": "internal"})
        );
    }

    #[test]
    fn codes_are_those_that_packages_look_for() {
        let of = |error: ApiError| {
            let error = refusal(&error);
            (error["error"]["type"].clone(), error["error"]["code"].clone(), error["error"]["param"].clone())
        };
        let model = ApiError::new(ErrorCode::UnsupportedModel, "`model`: the pool has no `x`; there are: y");
        assert_eq!(of(model), (json!("invalid_request_error"), json!("model_not_found"), json!("model")));
        let token = ApiError::of_request(HttpCode::Unauthorized, "this queen asks for a token");
        assert_eq!(of(token), (json!("invalid_request_error"), json!("invalid_api_key"), Value::Null));
        let many = ApiError::of_request(HttpCode::RateLimited, "more than 1");
        assert_eq!(of(many), (json!("rate_limit_error"), json!("rate_limit_exceeded"), Value::Null));
    }
}
