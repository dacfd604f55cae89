//! Forms of several parts (`multipart/form-data`): parts are read piece by piece against their limits, names of files are
//! not looked at, and parts that nobody asks for are passed over.

use std::time::Duration;

use axum::{
    extract::{
        FromRequest, Multipart, Request,
        multipart::{Field, MultipartError},
    },
    http::{StatusCode, header::CONTENT_TYPE},
};
use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value};

use super::{Foreign, fields::Fields, refusal::field};
use crate::{
    contract::{ErrorCode, HttpCode},
    http::{ApiError, read_object},
};

/// Parts that a form has at most.
const MAX_PARTS: usize = 64;
/// The longest text in a form, in bytes: a prompt of 4096 characters, and lists.
const MAX_TEXT: usize = 64 << 10;
/// How long a body may take to arrive.
const READ_WITHIN: Duration = Duration::from_secs(120);

/// A part that is a file.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    /// The name of the part, without the `[]` that says that there may be several.
    pub name: String,
    /// What is in it.
    pub bytes: Bytes,
}

impl Foreign {
    /// Reads a body: the fields of JSON, or those of a form and its files, which are the parts of these names.
    ///
    /// # Errors
    /// What is wrong with its form, or with its size.
    pub(super) async fn read(
        &self,
        request: Request,
        files: &[&str],
    ) -> Result<(Fields, Vec<Upload>), ApiError> {
        let read = async {
            if is_form(&request) {
                return self.read_form(request, files).await;
            }
            let headers = request.headers().clone();
            let bytes = Bytes::from_request(request, &()).await;
            Ok((Fields::of_json(read_object(&headers, bytes, self.max_body).await?), vec![]))
        };
        tokio::time::timeout(READ_WITHIN, read)
            .await
            .unwrap_or_else(|_| Err(field("body", format!("it did not arrive within {READ_WITHIN:?}"))))
    }

    async fn read_form(&self, request: Request, files: &[&str]) -> Result<(Fields, Vec<Upload>), ApiError> {
        let broken = |error: MultipartError| self.broken(&error);
        let mut form = Multipart::from_request(request, &()).await.map_err(|rejection| {
            ApiError::of_request(HttpCode::UnsupportedMediaType, format!("`body`: {}", rejection.body_text()))
        })?;
        let (mut texts, mut uploads, mut passed_over) = (Map::new(), vec![], vec![]);
        let mut parts = 0;
        while let Some(part) = form.next_field().await.map_err(broken)? {
            parts += 1;
            if parts > MAX_PARTS {
                return Err(field("body", format!("it has more than {MAX_PARTS} parts")));
            }
            let Some(name) = part.name().map(str::to_owned) else { continue };
            let plain = name.strip_suffix("[]").unwrap_or(&name).to_owned();
            if files.contains(&plain.as_str()) {
                let most = usize::try_from(self.queen.shared.options.max_input).unwrap_or(usize::MAX);
                let bytes = self.part(part, &plain, most).await?;
                // What a form of a web page has where no file was chosen.
                if !bytes.is_empty() {
                    uploads.push(Upload { name: plain, bytes });
                }
            } else if part.file_name().is_some() {
                // The next part is reached by reading past this one.
                passed_over.push(name);
            } else {
                let bytes = self.part(part, &name, MAX_TEXT).await?;
                let text = String::from_utf8(bytes.into()).map_err(|_| field(&name, "it is not UTF-8"))?;
                texts.insert(name, Value::String(text));
            }
        }
        let mut fields = Fields::of_form(texts);
        passed_over.iter().for_each(|name| fields.note(name));
        Ok((fields, uploads))
    }

    /// A part of at most `most` bytes.
    async fn part(&self, mut part: Field<'_>, name: &str, most: usize) -> Result<Bytes, ApiError> {
        let mut bytes = BytesMut::new();
        while let Some(chunk) = part.chunk().await.map_err(|error| self.broken(&error))? {
            if bytes.len() + chunk.len() > most {
                let message = format!("`{name}`: at most {most} bytes are taken");
                return Err(ApiError::new(ErrorCode::PayloadTooLarge, message));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    fn broken(&self, error: &MultipartError) -> ApiError {
        match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(
                ErrorCode::PayloadTooLarge,
                format!("`body`: at most {} bytes are taken", self.max_body),
            ),
            _ => field("body", format!("the form cannot be read: {}", error.body_text())),
        }
    }
}

fn is_form(request: &Request) -> bool {
    let media = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media.trim_start().get(..10).is_some_and(|start| start.eq_ignore_ascii_case("multipart/"))
}
