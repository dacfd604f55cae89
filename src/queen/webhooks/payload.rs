//! What is posted: `{"type": "job.complete", "timestamp": ..., "data": the event}`, without any picture.

use std::time::SystemTime;

use crate::{
    bus::shortened,
    contract::{Event, WebhookBody},
};

/// The most bytes of a body: receivers need take no more (Standard Webhooks).
pub const MAX_BODY: usize = 20_000;

/// The body for an event that was stored, or happened, at this time.
pub fn of(event: Event, at: SystemTime) -> Vec<u8> {
    let short = shortened(&event);
    let body = write(event, at);
    match short {
        // Eight URLs that are signed with the credentials of a session, or many warnings.
        Some(short) if body.len() > MAX_BODY => write(short, at),
        _ => body,
    }
}

fn write(event: Event, at: SystemTime) -> Vec<u8> {
    let body = WebhookBody::new(event, humantime::format_rfc3339_millis(at).to_string());
    serde_json::to_vec(&body).expect("an event has string keys and finite numbers only")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::contract::{
        CompleteEvent, ErrorCode, EventKind, ImageResult, JobId, OutputFormat, Timings, WorkerId,
    };

    fn body(kind: EventKind) -> (usize, Value) {
        let (job_id, worker_id) = (JobId::new("j").unwrap(), WorkerId::new("w").unwrap());
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let body = of(Event { job_id, worker_id, attempt: 1, seq: 7, kind }, at);
        (body.len(), serde_json::from_slice(&body).unwrap())
    }

    fn complete(url: usize, warnings: usize) -> EventKind {
        let image = |index: u64| ImageResult {
            key: format!("jobs/j/{index}.png"),
            url: "u".repeat(url),
            format: OutputFormat::Png,
            width: 64,
            height: 64,
            bytes: 3,
            sha256: "0".repeat(64),
            seed: index,
        };
        EventKind::Complete(CompleteEvent {
            model: "m".into(),
            images: (0..8).map(image).collect(),
            timings_ms: Timings::default(),
            mask: None,
            warnings: vec!["w".repeat(100); warnings],
        })
    }

    #[test]
    fn a_body_is_the_event_with_its_type_and_its_time() {
        let (_, body) = body(EventKind::Cancelled { step: 3 });
        assert_eq!(
            body,
            json!({"type": "job.cancelled", "timestamp": "2023-11-14T22:13:20.123Z", "data":
                {"job_id": "j", "worker_id": "w", "attempt": 1, "seq": 7, "type": "cancelled", "step": 3}})
        );
    }

    #[test]
    fn no_body_is_larger_than_a_receiver_must_take() {
        let (_, usual) = body(complete(800, 2));
        assert_eq!(usual["data"]["warnings"].as_array().unwrap().len(), 2);
        for kind in [
            complete(800, 10_000),
            complete(5000, 0),
            EventKind::error(ErrorCode::Internal, "e".repeat(100_000)),
        ] {
            let (bytes, body) = body(kind);
            assert!(bytes <= MAX_BODY, "{bytes}");
            assert_eq!(body["data"]["job_id"], "j");
        }
    }
}
