//! What one message of an event stream says. Queens of later versions may send events, fields and error codes that this
//! keeper does not know; they end nothing but what they say they end. What is no event of queen's is not taken for one.

use serde::Deserialize;

use crate::contract::{ErrorCode, Event, JobId, Queued};

/// The last lines of a stream, which follow the event that ended the job.
const LAST_LINES: [&str; 3] = ["[DONE]", "[ERROR]", "[CANCELLED]"];

/// What was heard.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// An event.
    Event(Box<Event>),
    /// Where the job stands in line.
    Queued(Queued),
    /// The job failed with a code that a later version has.
    Failed {
        /// The code on the wire.
        code: String,
        /// In words.
        message: String,
        /// Whether the same job may succeed later.
        retryable: bool,
    },
    /// An event of a type that a later version has, or what follows the end.
    Nothing,
}

/// What every event has, whichever version sends it.
#[derive(Deserialize)]
struct Any {
    job_id: String,
    #[serde(rename = "type")]
    name: String,
}

#[derive(Deserialize)]
struct Failure {
    code: String,
    message: String,
    #[serde(default)]
    retryable: bool,
}

/// Reads the data of a message of the stream of `job`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read(data: &str, job: &JobId) -> Result<Heard, String> {
    if LAST_LINES.iter().any(|line| data.starts_with(line)) {
        return Ok(Heard::Nothing);
    }
    let Ok(Any { job_id, name }) = serde_json::from_str(data) else {
        return Err("its event stream has messages that are no events".into());
    };
    if job_id != job.as_str() {
        return Err(format!("its event stream is that of another job, {job_id}"));
    }
    match serde_json::from_str::<Event>(data) {
        Ok(event) => Ok(Heard::Event(Box::new(event))),
        Err(_) if name == "queued" => Ok(serde_json::from_str(data).map_or(Heard::Nothing, Heard::Queued)),
        Err(_) if !is_known(&name) => Ok(Heard::Nothing),
        Err(_) if name == "error" => match serde_json::from_str::<Failure>(data) {
            Ok(Failure { code, message, retryable }) if ErrorCode::from_code(&code).is_none() => {
                Ok(Heard::Failed { code, message, retryable })
            }
            Ok(_) | Err(_) => Err("its `error` event has another form".into()),
        },
        Err(_) => Err(format!("its `{name}` event has another form")),
    }
}

/// Whether this version has events of that type.
fn is_known(name: &str) -> bool {
    ["accepted", "progress", "preview", "complete", "error", "cancelled"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::EventKind;
    use serde_json::json;

    fn job() -> JobId {
        JobId::new("j").unwrap()
    }

    fn event(more: serde_json::Value) -> String {
        let mut event = json!({"job_id": "j", "worker_id": "w", "attempt": 1, "seq": 3});
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event.to_string()
    }

    #[test]
    fn what_a_later_version_sends_ends_nothing_else() {
        let known = event(json!({"type": "cancelled", "step": 2, "why": "new"}));
        assert!(matches!(read(&known, &job()), Ok(Heard::Event(event)) if event.kind.is_terminal()));
        let unknown = event(json!({"type": "paused", "until": 3}));
        assert_eq!(read(&unknown, &job()), Ok(Heard::Nothing));
        let queued = r#"{"type":"queued","job_id":"j","position":3,"reason":null}"#;
        assert!(matches!(read(queued, &job()), Ok(Heard::Queued(Queued { position: Some(3), .. }))));
        let code = event(json!({"type": "error", "code": "too_hot", "message": "m", "retryable": true}));
        let failed = Heard::Failed { code: "too_hot".into(), message: "m".into(), retryable: true };
        assert_eq!(read(&code, &job()), Ok(failed));
    }

    #[test]
    fn every_event_of_the_contract_is_known() {
        let schema = serde_json::to_value(schemars::schema_for!(EventKind)).unwrap();
        for kind in schema["oneOf"].as_array().unwrap() {
            assert!(is_known(kind["properties"]["type"]["const"].as_str().unwrap()), "{kind}");
        }
    }

    #[test]
    fn what_is_no_event_of_the_job_is_not_taken_for_one() {
        for (data, said) in [
            ("hello", "no events"),
            ("{\"half", "no events"),
            ("{\"ok\":true}", "no events"),
            ("[1,2]", "no events"),
            (&event(json!({"type": "cancelled", "step": 2, "job_id": "k"})), "another job, k"),
            (&event(json!({"type": "progress", "step": "two"})), "`progress` event has another form"),
            (&event(json!({"type": "error", "code": "busy"})), "`error` event has another form"),
        ] {
            let why = read(data, &job()).unwrap_err();
            assert!(why.contains(said), "{data}: {why}");
        }
        for data in LAST_LINES {
            assert_eq!(read(data, &job()), Ok(Heard::Nothing));
        }
    }
}
