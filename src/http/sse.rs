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
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Heard, Jobs, Opened,
    picture::{Picture, Pictures},
};
use crate::contract::{Event, EventKind};

/// A comment is sent after this long without an event, so that no proxy takes the stream for dead.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What nginx reads, and others after it: nothing is held back until a buffer is full.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Text on its way to a client, in parts.
pub(super) type Text = BoxStream<'static, io::Result<Bytes>>;

/// How events are written.
#[derive(Clone)]
pub(super) struct Writer<J> {
    pub jobs: J,
    pub pictures: Pictures,
    /// With `complete` comes the first picture, which upstream clients read as its member `image`.
    pub with_picture: bool,
}

/// The stream of a job's events. It ends after the terminal event and its `[DONE]`, `[ERROR] message` or
/// `[CANCELLED]`; a stream that ends without one was cut short, and the client may connect again.
pub(super) fn sse<J: Jobs>(writer: Writer<J>, opened: Opened) -> Response {
    response(keep_alive(text(writer, opened.heard())))
}

/// An answer that is a stream of events.
pub(super) fn response(text: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        // A proxy that compresses would hold events back.
        (CACHE_CONTROL, "no-cache, no-transform"),
        (ACCEL_BUFFERING, "no"),
    ];
    (headers, Body::from_stream(text)).into_response()
}

/// What is sent, in parts.
fn text<J: Jobs>(writer: Writer<J>, heard: BoxStream<'static, Heard>) -> Text {
    let lines = heard.then(move |heard| {
        let writer = writer.clone();
        async move {
            match heard {
                Heard::Event(event) => writer.lines(event).await,
                Heard::Queued(queued) => unnumbered(&queued),
            }
        }
    });
    lines.flatten().boxed()
}

/// What is not kept, and so has no number.
pub(super) fn unnumbered(data: &impl Serialize) -> Text {
    let data = serde_json::to_string(data).expect("what is told has string keys only");
    once(format!("data: {data}\n\n")).boxed()
}

/// With a comment where nothing comes for long.
pub(super) fn keep_alive(text: Text) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold(text, |mut text| async move {
        match tokio::time::timeout(KEEP_ALIVE, text.next()).await {
            Ok(part) => part.map(|part| (part, text)),
            // Between two events: the parts of one come without a pause.
            Err(_) => Some((Ok(Bytes::from_static(b":\n\n")), text)),
        }
    })
}

fn one_line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}

impl<J: Jobs> Writer<J> {
    /// An event of the stream of one job, and the line that says how the job ended.
    async fn lines(&self, event: Event) -> Text {
        let last = match &event.kind {
            EventKind::Accepted { .. } | EventKind::Progress { .. } | EventKind::Preview { .. } => None,
            EventKind::Complete(_) => Some("[DONE]".to_owned()),
            EventKind::Error { message, .. } => Some(format!("[ERROR] {}", one_line(message))),
            EventKind::Cancelled { .. } => Some("[CANCELLED]".to_owned()),
        };
        let id = match event.kind {
            // It is not kept, and may overtake what is: a client that connects again goes on after what was kept.
            EventKind::Preview { .. } => None,
            _ => Some(event.seq.to_string()),
        };
        let end = last.map_or_else(String::new, |text| format!("data: {text}\n\n"));
        self.event(id, &event).await.chain(once(end)).boxed()
    }

    /// An event, by this `id:`.
    pub async fn event(&self, id: Option<String>, event: &Event) -> Text {
        let id = id.map_or_else(String::new, |id| format!("id: {id}\n"));
        let (data, picture) = self.data(event).await;
        let Some(picture) = picture else { return once(format!("{id}data: {data}\n\n")).boxed() };
        let mut open = data.to_string();
        // The picture is the last member of the object, and base64 has nothing that JSON would escape.
        open.truncate(open.len() - 1);
        let in_base64 = picture.parts().map_ok(|part| Bytes::from(STANDARD.encode(part)));
        once(format!("{id}data: {open},\"image\":\""))
            .chain(in_base64)
            .chain(once("\"}\n\n".to_owned()))
            .boxed()
    }

    /// The event as JSON, and the picture that goes with it.
    async fn data(&self, event: &Event) -> (Value, Option<Picture>) {
        let mut data = serde_json::to_value(event).expect("an event has string keys only");
        let EventKind::Complete(complete) = &event.kind else { return (data, None) };
        let Some(first) = complete.images.first().filter(|_| self.with_picture) else { return (data, None) };
        data["format"] = json!(first.format);
        match self.pictures.read(&self.jobs, &event.job_id, 0).await {
            Ok(picture) => (data, Some(picture)),
            Err(error) => {
                // The job is done and its picture stored; that it cannot be read at present changes neither.
                tracing::warn!(job = %event.job_id, %error, "the picture of a finished job cannot be read");
                let warning =
                    format!("the picture is stored, but could not be read for this stream: {error}");
                if let Some(warnings) = data["warnings"].as_array_mut() {
                    warnings.push(json!(warning));
                }
                (data, None)
            }
        }
    }
}

/// One part; of an empty text none.
fn once(text: String) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::iter((!text.is_empty()).then(|| Ok(Bytes::from(text))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        contract::{CompleteEvent, ErrorCode, ImageResult, JobId, OutputFormat, Queued, Timings, WorkerId},
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
            mask: None,
            warnings: vec![],
        })
    }

    fn writer(picture: Bytes) -> Writer<OnePicture> {
        Writer { jobs: OnePicture(picture), pictures: Pictures::new(1), with_picture: true }
    }

    async fn sent(picture: Bytes, events: Vec<Event>) -> Vec<Bytes> {
        text(writer(picture), stream::iter(events).map(Heard::Event).boxed()).try_collect().await.unwrap()
    }

    #[tokio::test]
    async fn whoever_wants_no_picture_gets_the_event_alone() {
        let writer = Writer { with_picture: false, ..writer(Bytes::from_static(b"png")) };
        let parts: Vec<Bytes> = text(writer, stream::iter([Heard::Event(event(4, complete()))]).boxed())
            .try_collect()
            .await
            .unwrap();
        let text = String::from_utf8(parts.concat()).unwrap();
        assert!(text.starts_with("id: 4\ndata: {") && text.ends_with("}\n\ndata: [DONE]\n\n"), "{text}");
        assert!(!text.contains("\"image\"") && text.contains("\"images\""), "{text}");
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
        let mut kept = Box::pin(keep_alive(stream::pending().boxed()));
        for _ in 0..3 {
            assert_eq!(kept.next().await.unwrap().unwrap(), ":\n\n");
        }
    }

    #[tokio::test]
    async fn a_job_that_waits_says_where_it_stands_until_something_happens() {
        let queued = |position, reason: Option<&str>| Queued {
            job_id: JobId::new("j").unwrap(),
            position: Some(position),
            reason: reason.map(str::to_owned),
        };
        let (sender, events) = tokio::sync::mpsc::unbounded_channel();
        let events = stream::unfold(events, |mut events| async { Some((events.recv().await?, events)) });
        let line = [queued(1, Some("no\nworker")), queued(0, None)];
        let line = stream::iter(line).chain(stream::pending()).boxed();
        let opened = Opened { events: events.boxed(), queued: Some(line) };
        let mut sent = text(writer(Bytes::new()), opened.heard());
        let mut next = async || String::from_utf8(sent.next().await.unwrap().unwrap().to_vec()).unwrap();
        let first = r#"data: {"type":"queued","job_id":"j","position":1,"reason":"no\nworker"}"#;
        assert_eq!(next().await, format!("{first}\n\n"));
        assert!(next().await.contains(r#""position":0,"reason":null"#));
        sender.send(event(0, EventKind::Cancelled { step: 0 })).unwrap();
        assert!(next().await.starts_with("id: 0\n"));
        drop(sender);
        assert_eq!(next().await, "data: [CANCELLED]\n\n");
        assert!(sent.next().await.is_none(), "the line has not ended, and is not waited for");
    }

    #[tokio::test]
    async fn proxies_are_told_to_hold_nothing_back() {
        let opened = Opened::from(stream::empty::<Event>().boxed());
        let response = sse(writer(Bytes::new()), opened);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("x-accel-buffering"), "no");
        assert_eq!(header("cache-control"), "no-cache, no-transform");
        assert_eq!(header("content-type"), "text/event-stream");
    }
}
