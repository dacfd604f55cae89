//! The answer to a call that waited: all pictures of the job, in base64 or as addresses, in one object.

use axum::{
    body::Body,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use serde_json::{Value, json};

use super::ask::How;
use crate::{
    contract::{CompleteEvent, ErrorCode, ImageResult, JobId},
    http::ApiError,
    queen::foreign::{
        Foreign, now,
        refusal::{Failure, JOB_ID, header},
        written::{Parts, object_with, text},
    },
};

/// A job, and what its answer is to be.
#[derive(Clone)]
pub(super) struct Asked {
    pub foreign: Foreign,
    pub id: JobId,
    pub how: How,
    /// What there is to say of the request, beside what the worker says.
    pub warnings: Vec<String>,
}

impl Asked {
    /// The pictures of the job.
    ///
    /// # Errors
    /// The first picture cannot be read.
    pub async fn answer(self, complete: CompleteEvent) -> Result<Response, Failure> {
        let mut open = self.head(&complete).to_string();
        open.truncate(open.len() - 1);
        let begin = text(format!("{open},\"data\":["));
        let body: Parts = match complete.images.first() {
            Some(first) if !self.how.urls => {
                let picture = self.foreign.picture(&self.id, 0).await?;
                let seeds: Vec<u64> = complete.images.iter().map(|image| image.seed).collect();
                let rest = self.foreign.rest(&self.id, seeds.len(), move |index, picture| {
                    let entry = object_with(&json!({"seed": seeds[index]}), "b64_json", picture, "");
                    text(",").chain(entry).boxed()
                });
                let entry = object_with(&json!({"seed": first.seed}), "b64_json", picture, "");
                begin.chain(entry).chain(rest).boxed()
            }
            _ => {
                let entries: Result<Vec<_>, Failure> = complete
                    .images
                    .iter()
                    .enumerate()
                    .map(|(index, image)| {
                        let entry = json!({"seed": image.seed, "url": self.url(index, image)?});
                        Ok(entry.to_string())
                    })
                    .collect();
                begin.chain(text(entries?.join(","))).boxed()
            }
        };
        let body = Body::from_stream(body.chain(text("]}")));
        let headers = [(CONTENT_TYPE, "application/json")];
        let mut response = (headers, body).into_response();
        response.headers_mut().insert(JOB_ID, header(&self.id));
        Ok(response)
    }

    /// All but the pictures.
    fn head(&self, complete: &CompleteEvent) -> Value {
        let mut head = json!({"created": now(), "usage": usage()});
        if let Some(first) = complete.images.first() {
            head["size"] = json!(size_of(first));
            head["output_format"] = json!(first.format);
        }
        let warnings: Vec<_> = self.warnings.iter().chain(&complete.warnings).collect();
        if !warnings.is_empty() {
            head["warnings"] = json!(warnings);
        }
        head
    }

    /// Where a picture is: as the store has signed it, or at this queen.
    pub fn url(&self, index: usize, image: &ImageResult) -> Result<String, Failure> {
        let shared = &self.foreign.queen.shared;
        if shared.store.presigns() {
            return Ok(image.url.clone());
        }
        let Some(public) = &shared.options.public_url else {
            let error = ApiError::new(ErrorCode::Internal, "this queen has no addresses for pictures");
            return Err(Failure { error, job: Some(self.id.clone()) });
        };
        let base = public.as_str().trim_end_matches('/');
        Ok(format!("{base}/v1/jobs/{}/images/{index}", self.id))
    }
}

/// `1024x768`.
pub(super) fn size_of(image: &ImageResult) -> String {
    format!("{}x{}", image.width, image.height)
}

/// Nothing is counted in tokens here; the packages want the numbers.
pub(super) fn usage() -> Value {
    json!({
        "input_tokens": 0, "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
        "output_tokens": 0, "total_tokens": 0,
    })
}
