//! A stream of how pictures come about: `..partial_image` of previews, `..completed` of each picture, or `error`.

use std::convert::identity;

use axum::{
    body::Body,
    http::header::{CACHE_CONTROL, CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use super::{
    answer::{Asked, size_of, usage},
    refusal,
};
use crate::{
    contract::{CompleteEvent, Event, EventKind, ImageResult},
    http::KEEP_ALIVE,
    queen::foreign::{
        call::{Call, end_of},
        now,
        refusal::{Failure, JOB_ID, header},
        written::{Parts, object_with, text},
    },
};

/// What nginx reads, and others after it: nothing is held back until a buffer is full.
const ACCEL_BUFFERING: &str = "x-accel-buffering";

/// What is shown of a job.
struct Shown {
    asked: Asked,
    call: Call,
    /// `image_generation` or `image_edit`.
    kind: &'static str,
    partial_images: u32,
    /// Partial pictures that were sent.
    sent: u32,
    ended: bool,
}

/// The stream of a call. The job is cancelled when the client leaves, as with any call.
pub(super) fn stream(asked: Asked, call: Call, kind: &'static str, partial_images: u32) -> Response {
    let id = header(&asked.id);
    let shown = Shown { asked, call, kind, partial_images, sent: 0, ended: false };
    let parts = stream::unfold(shown, |mut shown| async move {
        if shown.ended {
            return None;
        }
        let part = shown.part().await;
        Some((part, shown))
    });
    let headers = [
        (CONTENT_TYPE.as_str(), "text/event-stream"),
        // A proxy that compresses would hold events back.
        (CACHE_CONTROL.as_str(), "no-cache, no-transform"),
        (ACCEL_BUFFERING, "no"),
    ];
    let body = Body::from_stream(kept_alive(parts.flat_map(identity).boxed()));
    let mut response = (headers, body).into_response();
    response.headers_mut().insert(JOB_ID, id);
    response
}

/// With a comment where nothing comes for long, so that no proxy takes the stream for dead. Between two events: the parts of
/// one come without a pause.
fn kept_alive(parts: Parts) -> Parts {
    let next = |mut parts: Parts| async move {
        match tokio::time::timeout(KEEP_ALIVE, parts.next()).await {
            Ok(part) => part.map(|part| (part, parts)),
            Err(_) => Some((Ok(Bytes::from_static(b":\n\n")), parts)),
        }
    };
    stream::unfold(parts, next).boxed()
}

impl Shown {
    /// What is sent next.
    async fn part(&mut self) -> Parts {
        loop {
            match self.call.next().await {
                Err(failure) => return self.failed(&failure),
                Ok(event) => {
                    if let Some(partial) = self.partial(&event) {
                        return partial;
                    }
                    match end_of(event) {
                        None => {}
                        Some(Err(failure)) => return self.failed(&failure),
                        Some(Ok(complete)) => return self.completed(complete).await,
                    }
                }
            }
        }
    }

    /// A preview, where the next partial picture is due: they are spread evenly over the steps.
    fn partial(&mut self, event: &Event) -> Option<Parts> {
        let EventKind::Preview { step, total, image, format, .. } = &event.kind else { return None };
        let due = u64::from(*step) * u64::from(self.partial_images + 1)
            >= u64::from(self.sent + 1) * u64::from(*total);
        if self.sent >= self.partial_images || !due || step >= total {
            return None;
        }
        let mut data = self.data("partial_image");
        data["b64_json"] = json!(image);
        data["partial_image_index"] = json!(self.sent);
        data["output_format"] = json!(format);
        data["size"] =
            json!(self.asked.how.size.map_or("auto".into(), |(width, height)| format!("{width}x{height}")));
        self.sent += 1;
        Some(text(self.line("partial_image", &data)).boxed())
    }

    /// The pictures, each in an event.
    async fn completed(&mut self, complete: CompleteEvent) -> Parts {
        self.ended = true;
        let Some(first) = complete.images.first() else { return text("").boxed() };
        let begin = format!("event: {}.completed\ndata: ", self.kind);
        if self.asked.how.urls {
            let mut lines = String::new();
            for (index, image) in complete.images.iter().enumerate() {
                let mut data = self.of(image, &complete);
                match self.asked.url(index, image) {
                    Ok(url) => data["url"] = json!(url),
                    Err(failure) => return self.failed(&failure),
                }
                lines.push_str(&self.line("completed", &data));
            }
            return text(lines).boxed();
        }
        let picture = match self.asked.foreign.picture(&self.asked.id, 0).await {
            Ok(picture) => picture,
            Err(failure) => return self.failed(&failure),
        };
        let entry = object_with(&self.of(first, &complete), "b64_json", picture, "\n\n");
        let others: Vec<Value> = complete.images.iter().map(|image| self.of(image, &complete)).collect();
        let again = begin.clone();
        let rest = self.asked.foreign.rest(&self.asked.id, others.len(), move |index, picture| {
            text(again.clone()).chain(object_with(&others[index], "b64_json", picture, "\n\n")).boxed()
        });
        text(begin).chain(entry).chain(rest).boxed()
    }

    /// What a `completed` says of a picture beside the picture.
    fn of(&self, image: &ImageResult, complete: &CompleteEvent) -> Value {
        let mut data = self.data("completed");
        data["size"] = json!(size_of(image));
        data["output_format"] = json!(image.format);
        data["usage"] = usage();
        data["seed"] = json!(image.seed);
        let warnings: Vec<_> = self.asked.warnings.iter().chain(&complete.warnings).collect();
        if !warnings.is_empty() {
            data["warnings"] = json!(warnings);
        }
        data
    }

    /// The members that every event has.
    fn data(&self, what: &str) -> Value {
        let kind = format!("{}.{what}", self.kind);
        json!({"type": kind, "created_at": now(), "quality": "auto", "background": "auto"})
    }

    fn line(&self, what: &str, data: &Value) -> String {
        format!("event: {}.{what}\ndata: {data}\n\n", self.kind)
    }

    /// The end of a job without pictures: some packages look at the name of the event, others for `error` in it.
    fn failed(&mut self, failure: &Failure) -> Parts {
        self.ended = true;
        let mut data = refusal(&failure.error);
        data["type"] = json!("error");
        text(format!("event: error\ndata: {data}\n\n")).boxed()
    }
}
