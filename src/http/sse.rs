//! Server-sent events of a job: `id: <seq>` (but of previews), `data: <event>`, and a last line that says how it ended.
//!
//! They are written by hand: of the picture in `complete`, megabytes in base64, no more is in memory than what is being sent.

use std::{io, time::Duration};

use axum::{
    body::Body,
    http::{
        HeaderName,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream, stream::BoxStream};
use serde_json::{Value, json};

use super::{
    Jobs, Opened, Waiting,
    picture::{Picture, Pictures},
};
use crate::contract::{Event, EventKind};

/// A comment is sent after this long without an event, so that no proxy takes the stream for dead.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What nginx reads, and others after it: nothing is held back until a buffer is full.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The stream of a job's events. It ends after the terminal event and its `[DONE]`, `[ERROR] message` or
/// `[CANCELLED]`; a stream that ends without one was cut short, and the client may connect again.
pub(super) fn sse<J: Jobs>(jobs: J, pictures: Pictures, opened: Opened) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        // A proxy that compresses would hold events back.
        (CACHE_CONTROL, "no-cache, no-transform"),
        (ACCEL_BUFFERING, "no"),
    ];
    let Opened { events, waiting } = opened;
    (headers, Body::from_stream(keep_alive(text(jobs, pictures, events), waiting))).into_response()
}

/// What is sent, in parts.
fn text<J: Jobs>(
    jobs: J,
    pictures: Pictures,
    events: BoxStream<'static, Event>,
) -> BoxStream<'static, io::Result<Bytes>> {
    let lines = events.then(move |event| {
        let (jobs, pictures) = (jobs.clone(), pictures.clone());
        async move { lines(&jobs, &pictures, event).await }
    });
    lines.flatten().boxed()
}

/// With a comment where nothing comes for long; one that says why the job waits, at once too, as long as that is all there is
/// to say.
fn keep_alive(
    text: BoxStream<'static, io::Result<Bytes>>,
    waiting: Option<Waiting>,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let why = |waiting: &Option<Waiting>| waiting.as_ref().and_then(|why| why());
    let comment = |why: String| Bytes::from(format!(": {}\n\n", one_line(&why)));
    let first = why(&waiting).map(|why| Ok(comment(why)));
    let rest = stream::unfold((text, waiting), move |(mut text, waiting)| async move {
        match tokio::time::timeout(KEEP_ALIVE, text.next()).await {
            // It waits no more.
            Ok(part) => part.map(|part| (part, (text, None))),
            // Between two events: the parts of one come without a pause.
            Err(_) => {
                let nothing = || Bytes::from_static(b":\n\n");
                Some((Ok(why(&waiting).map_or_else(nothing, comment)), (text, waiting)))
            }
        }
    });
    stream::iter(first).chain(rest)
}

fn one_line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}

async fn lines<J: Jobs>(
    jobs: &J,
    pictures: &Pictures,
    event: Event,
) -> BoxStream<'static, io::Result<Bytes>> {
    let last = match &event.kind {
        EventKind::Accepted { .. } | EventKind::Progress { .. } | EventKind::Preview { .. } => None,
        EventKind::Complete(_) => Some("[DONE]".to_owned()),
        EventKind::Error { message, .. } => Some(format!("[ERROR] {}", one_line(message))),
        EventKind::Cancelled { .. } => Some("[CANCELLED]".to_owned()),
    };
    let id = match event.kind {
        // It is not kept, and may overtake what is: a client that connects again goes on after what was kept.
        EventKind::Preview { .. } => String::new(),
        _ => format!("id: {}\n", event.seq),
    };
    let (data, picture) = data(jobs, pictures, &event).await;
    let end = last.map_or_else(String::new, |text| format!("data: {text}\n\n"));
    match picture {
        None => once(format!("{id}data: {data}\n\n{end}")).boxed(),
        Some(picture) => {
            let mut open = data.to_string();
            // The picture is the last member of the object, and base64 has nothing that JSON would escape.
            open.truncate(open.len() - 1);
            let in_base64 = picture.parts().map_ok(|part| Bytes::from(STANDARD.encode(part)));
            once(format!("{id}data: {open},\"image\":\""))
                .chain(in_base64)
                .chain(once(format!("\"}}\n\n{end}")))
                .boxed()
        }
    }
}

fn once(text: String) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::iter([Ok(Bytes::from(text))])
}

/// The event as JSON; with `complete` the first picture, which upstream clients read as its member `image`.
async fn data<J: Jobs>(jobs: &J, pictures: &Pictures, event: &Event) -> (Value, Option<Picture>) {
    let mut data = serde_json::to_value(event).expect("an event has string keys only");
    let EventKind::Complete(complete) = &event.kind else { return (data, None) };
    let Some(first) = complete.images.first() else { return (data, None) };
    data["format"] = json!(first.format);
    match pictures.read(jobs, &event.job_id, 0).await {
        Ok(picture) => (data, Some(picture)),
        Err(error) => {
            // The job is done and its picture stored; that it cannot be read at present changes neither.
            tracing::warn!(job = %event.job_id, %error, "the picture of a finished job cannot be read");
            let warning = format!("the picture is stored, but could not be read for this stream: {error}");
            if let Some(warnings) = data["warnings"].as_array_mut() {
                warnings.push(json!(warning));
            }
            (data, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        contract::{CompleteEvent, ErrorCode, ImageResult, JobId, OutputFormat, Timings, WorkerId},
        http::picture::tests::OnePicture,
    };

    fn event(seq: u64, kind: EventKind) -> Event {
        let worker_id = WorkerId::new("w").unwrap();
        Event { job_id: JobId::new("j").unwrap(), worker_id, attempt: 1, seq, kind }
    }

    fn complete() -> EventKind {
        let image = ImageResult {
            key: "jobs/j/0.png".into(),
            url: String::new(),
            format: OutputFormat::Png,
            width: 64,
            height: 64,
            bytes: 3,
            sha256: String::new(),
            seed: 1,
        };
        EventKind::Complete(CompleteEvent {
            model: "m".into(),
            images: vec![image],
            timings_ms: Timings::default(),
            warnings: vec![],
        })
    }

    async fn sent(picture: Bytes, events: Vec<Event>) -> Vec<Bytes> {
        let events = stream::iter(events).boxed();
        text(OnePicture(picture), Pictures::new(1), events).try_collect().await.unwrap()
    }

    #[tokio::test]
    async fn complete_carries_the_first_picture_and_is_sent_in_parts() {
        let picture = Bytes::from((0..1_000_000_u32).map(|n| n as u8).collect::<Vec<_>>());
        let parts = sent(picture.clone(), vec![event(4, complete())]).await;
        let longest = parts.iter().map(Bytes::len).max().unwrap();
        assert!(longest < 70_000, "{longest} bytes at one time");
        let text = String::from_utf8(parts.concat()).unwrap();
        let rest = text.strip_prefix("id: 4\ndata: ").unwrap();
        let data: Value = serde_json::from_str(rest.strip_suffix("\n\ndata: [DONE]\n\n").unwrap()).unwrap();
        assert_eq!((&data["type"], &data["format"]), (&json!("complete"), &json!("png")));
        assert_eq!(STANDARD.decode(data["image"].as_str().unwrap()).unwrap(), picture);
    }

    #[tokio::test]
    async fn each_event_is_a_line_with_its_number_and_the_end_is_told() {
        let preview = EventKind::Preview {
            step: 1,
            total: 2,
            percent: 50.0,
            image: "AA==".into(),
            format: OutputFormat::Jpeg,
        };
        let events = vec![event(0, preview), event(1, EventKind::error(ErrorCode::Internal, "two\r\nlines"))];
        let text = String::from_utf8(sent(Bytes::new(), events).await.concat()).unwrap();
        let blocks: Vec<_> = text.split_terminator("\n\n").collect();
        assert_eq!(blocks.len(), 3, "{text}");
        assert!(blocks[0].starts_with("data: {"), "a preview has no number: {text}");
        assert!(blocks[1].starts_with("id: 1\ndata: {"), "{text}");
        assert_eq!(blocks[2], "data: [ERROR] two  lines");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_in_which_nothing_happens_is_kept_alive() {
        let mut kept = Box::pin(keep_alive(stream::pending().boxed(), None));
        for _ in 0..3 {
            assert_eq!(kept.next().await.unwrap().unwrap(), ":\n\n");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_waits_says_why_until_something_happens() {
        let events = once("data: {}\n\n".into()).chain(stream::pending()).boxed();
        let slow = stream::unfold(events, |mut events| async move {
            tokio::time::sleep(KEEP_ALIVE * 3 / 2).await;
            Some((events.next().await?, events))
        });
        let waiting: Waiting = Box::new(|| Some("no worker has\nthe model".into()));
        let kept = keep_alive(slow.boxed(), Some(waiting));
        let sent: Vec<_> = kept.take(4).map(|part| part.unwrap()).collect().await;
        let why = ": no worker has the model\n\n";
        assert_eq!(sent, [why, why, "data: {}\n\n", ":\n\n"]);
        let silent: Waiting = Box::new(|| None);
        let mut kept = Box::pin(keep_alive(once("data: {}\n\n".into()).boxed(), Some(silent)));
        assert_eq!(kept.next().await.unwrap().unwrap(), "data: {}\n\n");
    }

    #[tokio::test]
    async fn proxies_are_told_to_hold_nothing_back() {
        let opened = Opened::from(stream::empty::<Event>().boxed());
        let response = sse(OnePicture(Bytes::new()), Pictures::new(1), opened);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("x-accel-buffering"), "no");
        assert_eq!(header("cache-control"), "no-cache, no-transform");
        assert_eq!(header("content-type"), "text/event-stream");
    }
}
