//! Server-sent events of a job: `id: <seq>` (but of previews), `data: <event>`, and a last line that says how it ended.

use std::{convert::Infallible, time::Duration};

use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::{Stream, StreamExt, stream, stream::BoxStream};
use serde_json::{Value, json};

use super::Jobs;
use crate::contract::{Event, EventKind};

/// A comment is sent after this long without an event, so that no proxy takes the stream for dead.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The stream of a job's events. It ends after the terminal event and its `[DONE]`, `[ERROR] message` or
/// `[CANCELLED]`; a stream that ends without one was cut short, and the client may connect again.
pub(super) fn sse<J: Jobs>(
    jobs: J,
    events: BoxStream<'static, Event>,
) -> Sse<impl Stream<Item = Result<SseEvent, Infallible>>> {
    let lines = events
        .then(move |event| {
            let jobs = jobs.clone();
            async move { lines(&jobs, event).await }
        })
        .flat_map(stream::iter)
        .map(Ok);
    Sse::new(lines).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

async fn lines<J: Jobs>(jobs: &J, event: Event) -> Vec<SseEvent> {
    let last = match &event.kind {
        EventKind::Accepted { .. } | EventKind::Progress { .. } | EventKind::Preview { .. } => None,
        EventKind::Complete(_) => Some("[DONE]".to_owned()),
        EventKind::Error { message, .. } => Some(format!("[ERROR] {}", message.replace(['\r', '\n'], " "))),
        EventKind::Cancelled { .. } => Some("[CANCELLED]".to_owned()),
    };
    let line = SseEvent::default().data(data(jobs, &event).await.to_string());
    let mut lines = vec![match event.kind {
        // It is not kept, and may overtake what is: a client that connects again goes on after what was kept.
        EventKind::Preview { .. } => line,
        _ => line.id(event.seq.to_string()),
    }];
    lines.extend(last.map(|text| SseEvent::default().data(text)));
    lines
}

/// The event as JSON; `complete` with the first picture in it, as upstream clients read it.
async fn data<J: Jobs>(jobs: &J, event: &Event) -> Value {
    let mut data = serde_json::to_value(event).expect("an event has string keys only");
    let EventKind::Complete(complete) = &event.kind else { return data };
    let Some(first) = complete.images.first() else { return data };
    data["format"] = json!(first.format);
    match jobs.image(&event.job_id, 0).await {
        Ok((bytes, _)) => data["image"] = json!(STANDARD.encode(bytes)),
        Err(error) => {
            // The job is done and its picture stored; that it cannot be read at present changes neither.
            tracing::warn!(job = %event.job_id, %error, "the picture of a finished job cannot be read");
            let warning = format!("the picture is stored, but could not be read for this stream: {error}");
            if let Some(warnings) = data["warnings"].as_array_mut() {
                warnings.push(json!(warning));
            }
        }
    }
    data
}
