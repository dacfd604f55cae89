//! OpenAI Images: generations, edits and the list of models, as its clients send and read them. The fields that peers have
//! beside it (steps, seed, LoRAs ...) are taken by the names that they use.
//!
//! | file | what lives there |
//! |---|---|
//! | `endpoints` | where they are, and what is said of them |
//! | `ask` | the fields of a request, as an operation and how it is answered |
//! | `size` | `auto` and `1024x768` |
//! | `edit` | pictures and masks of an edit, from files of a form or from data URLs |
//! | `answer` | one answer with all pictures |
//! | `events` | a stream: partial pictures, then the whole ones |
//! | `models` | GET /v1/models |
//! | `refusal` | errors as OpenAI has them |
//!
//! Variations are not here: OpenAI itself takes none any more.

mod answer;
mod ask;
mod edit;
mod endpoints;
mod events;
mod models;
mod refusal;
mod size;

use axum::{
    Extension,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header::ALLOW},
    response::{IntoResponse, Response},
};

use self::{answer::Asked, ask::Ask};
use super::{Foreign, fields::IGNORED, key, refusal::Failure};
use crate::{
    contract::{Capability, HttpCode},
    http::ApiError,
    queen::auth::Client,
};

pub(in crate::queen) use endpoints::endpoints;
pub(super) use refusal::refusal;

/// Whether a path is one of OpenAI's, where errors have its form.
pub(super) fn has(path: &str) -> bool {
    ["/v1/images", "/v1/models"]
        .into_iter()
        .filter_map(|door| path.strip_prefix(door))
        .any(|rest| rest.is_empty() || rest.starts_with('/'))
}

async fn generate(
    State(foreign): State<Foreign>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Failure> {
    let (fields, _) = foreign.read(request, &[]).await?;
    let ask = Ask::read(fields, Capability::Generate, &foreign)?;
    foreign.draw(&client, &headers, ask, vec![], "image_generation").await
}

async fn edit(
    State(foreign): State<Foreign>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Failure> {
    let (mut fields, uploads) = foreign.read(request, &[edit::IMAGE, edit::MASK]).await?;
    let inputs = edit::inputs(&mut fields, uploads)?;
    let capability = match inputs.mask {
        Some(_) => Capability::Inpaint,
        None => Capability::Transform,
    };
    let mut ask = Ask::read(fields, capability, &foreign)?;
    let warnings = foreign.put_into(&client, inputs, &mut ask).await?;
    foreign.draw(&client, &headers, ask, warnings, "image_edit").await
}

async fn variations() -> ApiError {
    ApiError::of_request(
        HttpCode::NotFound,
        "there are no variations; edit the picture (POST /v1/images/edits)",
    )
}

/// Some programs ask this way whether somebody is there.
async fn what_there_is() -> Response {
    (StatusCode::NO_CONTENT, [(ALLOW, "POST, OPTIONS")]).into_response()
}

impl Foreign {
    /// Has the job drawn, and answers with its pictures or with the stream of how they come about.
    async fn draw(
        &self,
        client: &Client,
        headers: &HeaderMap,
        ask: Ask,
        warnings: Vec<String>,
        kind: &'static str,
    ) -> Result<Response, Failure> {
        let key = key::job_id(headers)?;
        let Ask { operation, how, partial_images, ignored } = ask;
        let call = self.call(client, operation, key).await?;
        let id = call.id().clone();
        let asked = Asked { foreign: self.clone(), id, how, warnings };
        let mut response = match partial_images {
            Some(partial_images) => events::stream(asked, call, kind, partial_images),
            None => {
                let complete = call.finish().await?;
                asked.answer(complete).await?
            }
        };
        if let Some(ignored) = ignored {
            response.headers_mut().insert(IGNORED, ignored);
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_openais_form_on_its_paths_alone() {
        for path in
            ["/v1/images/generations", "/v1/images/nosuch", "/v1/images", "/v1/models", "/v1/models/a/b"]
        {
            assert!(has(path), "{path}");
        }
        for path in ["/v1/jobs", "/v1/jobs/a/images/0", "/v1/imagesx", "/v1", "/health", "/x/v1/images"] {
            assert!(!has(path), "{path}");
        }
    }
}
