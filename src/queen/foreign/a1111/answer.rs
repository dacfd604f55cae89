//! The answer of txt2img and img2img: pictures in base64 without a prefix, what the request was, and `info`, which is JSON in
//! a string. Pictures are written while they are read; what `info` says of each is read from it in passing.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    body::Body,
    http::{HeaderValue, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::Value;

use super::{info::Told, png};
use crate::{
    contract::{CompleteEvent, JobId},
    http::Picture,
    queen::foreign::{
        Foreign,
        fields::IGNORED,
        refusal::{Failure, JOB_ID, header},
        written::{Parts, text},
    },
};

/// The texts of pictures that have passed.
type Texts = Arc<Mutex<Vec<String>>>;

/// The pictures of a job.
///
/// # Errors
/// The first picture cannot be read.
pub(super) async fn pictures(
    foreign: &Foreign,
    id: &JobId,
    complete: CompleteEvent,
    told: Told,
    ignored: Option<HeaderValue>,
) -> Result<Response, Failure> {
    let (texts, sends) = (Texts::default(), told.wish.send_images);
    let first = foreign.picture(id, 0).await?;
    let first = one(0, first, texts.clone(), sends);
    let seen = texts.clone();
    let count = complete.images.len();
    let rest = foreign.rest(id, count, move |index, picture| one(index, picture, seen.clone(), sends));
    let parameters = told.parameters();
    let end = stream::once(async move {
        let texts = std::mem::take(&mut *texts.lock().unwrap_or_else(PoisonError::into_inner));
        Ok::<_, io::Error>(ending(&parameters, &told.info(Some(&complete), &texts)))
    });
    let body = text("{\"images\":[").chain(first).chain(rest).chain(end);
    Ok(respond(Body::from_stream(body), Some(id), ignored))
}

/// No pictures: the client has interrupted its call.
pub(super) fn interrupted(id: Option<&JobId>, told: &Told, ignored: Option<HeaderValue>) -> Response {
    let mut body = b"{\"images\":[".to_vec();
    body.extend(ending(&told.parameters(), &told.info(None, &[])));
    respond(Body::from(body), id, ignored)
}

fn ending(parameters: &Value, info: &Value) -> Bytes {
    let info = Value::from(info.to_string());
    format!("],\"parameters\":{parameters},\"info\":{info}}}").into()
}

/// A picture as an item of a list; where it is not sent, its beginning is read.
fn one(index: usize, picture: Picture, texts: Texts, sends: bool) -> Parts {
    let parts = picture.parts().enumerate().map(move |(number, part)| {
        part.map(|part| {
            if number == 0 {
                let text = png::infotext(&part).unwrap_or_default();
                texts.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            }
            Bytes::from(STANDARD.encode(part))
        })
    });
    if !sends {
        return parts.take(1).map(|part| part.map(|_| Bytes::new())).boxed();
    }
    let comma = if index == 0 { "\"" } else { ",\"" };
    text(comma).chain(parts).chain(text("\"")).boxed()
}

fn respond(body: Body, id: Option<&JobId>, ignored: Option<HeaderValue>) -> Response {
    let mut response = ([(CONTENT_TYPE, "application/json")], body).into_response();
    if let Some(id) = id {
        response.headers_mut().insert(JOB_ID, header(id));
    }
    if let Some(ignored) = ignored {
        response.headers_mut().insert(IGNORED, ignored);
    }
    response
}
