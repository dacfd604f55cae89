//! What a job says of its webhook: where its events are posted, and which; and what is posted. By which rules an address is one that may be
//! posted to is for queen to say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ContractError, Event, EventKind, Operation, nearest::nearest, operation::on_body};

/// The longest URL, in characters.
pub const MAX_WEBHOOK_URL: usize = 2000;
/// The events that can be asked for.
pub const WEBHOOK_EVENTS: [&str; 5] = ["accepted", "progress", "complete", "error", "cancelled"];
/// Those that are posted unless told: the three ends.
const ENDS: [&str; 3] = ["complete", "error", "cancelled"];

/// A job's webhook. It travels in the job's ticket, not in the job: workers post nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// Where. It may hold a secret: it is in no log.
    pub url: String,
    /// The names of the events. One that this version does not know is never posted by it.
    pub events: Vec<String>,
}

impl Webhook {
    /// Whether such an event is posted.
    pub fn wants(&self, kind: &EventKind) -> bool {
        self.wants_name(kind.name())
    }

    /// Whether how a job goes is posted too.
    pub fn wants_progress(&self) -> bool {
        self.wants_name("progress")
    }

    fn wants_name(&self, name: &str) -> bool {
        self.events.iter().any(|event| event == name)
    }
}

/// What is posted to a job's `webhook_url`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WebhookBody {
    /// `job.` and the event's type, as `job.complete`.
    pub r#type: String,
    /// When the event was stored, or happened, as RFC 3339 writes it.
    pub timestamp: String,
    /// The event.
    pub data: Event,
}

impl WebhookBody {
    /// Of an event of this time.
    pub fn new(event: Event, timestamp: String) -> Self {
        Self { r#type: format!("job.{}", event.kind.name()), timestamp, data: event }
    }
}

impl Operation {
    /// Takes the webhook out of a request.
    ///
    /// # Errors
    /// [`ContractError::Field`] with `webhook_url` or `webhook_events`.
    pub fn take_webhook(&mut self) -> Result<Option<Webhook>, ContractError> {
        let (url, events) = on_body!(self, body => (body.webhook_url.take(), body.webhook_events.take()));
        let Some(url) = url else {
            return match events {
                None => Ok(None),
                Some(_) => Err(ContractError::field("webhook_events", "is for a job with a `webhook_url`")),
            };
        };
        let length = url.chars().count();
        if length > MAX_WEBHOOK_URL {
            let reason = format!("{length} characters; at most {MAX_WEBHOOK_URL} are allowed");
            return Err(ContractError::field("webhook_url", reason));
        }
        Ok(Some(Webhook { url, events: named(events)? }))
    }
}

fn named(events: Option<Vec<String>>) -> Result<Vec<String>, ContractError> {
    let Some(events) = events else { return Ok(ENDS.map(str::to_owned).into()) };
    if events.is_empty() {
        return Err(ContractError::field("webhook_events", "is empty; leave it out for the three ends"));
    }
    for (i, event) in events.iter().enumerate() {
        if WEBHOOK_EVENTS.contains(&event.as_str()) {
            continue;
        }
        let reason = match nearest(event, WEBHOOK_EVENTS) {
            Some(name) => format!("there is no such event; did you mean `{name}`?"),
            None => format!("there is no such event; there are: {}", WEBHOOK_EVENTS.join(", ")),
        };
        return Err(ContractError::field(format!("webhook_events[{i}]"), reason));
    }
    let wanted = |name: &&str| events.iter().any(|event| event == name);
    Ok(WEBHOOK_EVENTS.into_iter().filter(wanted).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn take(more: &Value) -> Result<Option<Webhook>, String> {
        let mut body = json!({"operation": "image_generation", "prompt": "a", "job_id": "j", "seed": 1});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let mut operation = Operation::parse(None, body.to_string().as_bytes()).unwrap();
        let before = operation.fingerprint();
        let taken = operation.take_webhook().map_err(|error| error.to_string());
        assert!(operation.webhook_fields().is_empty(), "nothing of it goes to a worker");
        assert_eq!(operation.fingerprint(), before, "it does not decide what the request is");
        taken
    }

    #[test]
    fn the_ends_are_posted_unless_told() {
        assert_eq!(take(&json!({})), Ok(None));
        assert_eq!(take(&json!({"webhook_url": ""})), Ok(None));
        let hook = take(&json!({"webhook_url": "https://me.example/"})).unwrap().unwrap();
        assert_eq!(hook.events, ENDS);
        assert!(hook.wants(&EventKind::Cancelled { step: 1 }) && !hook.wants_progress());
        let told =
            json!({"webhook_url": "https://me.example/", "webhook_events": ["progress", "error", "error"]});
        let hook = take(&told).unwrap().unwrap();
        assert_eq!(hook.events, ["progress", "error"]);
        assert!(hook.wants_progress() && !hook.wants(&EventKind::Cancelled { step: 1 }));
    }

    #[test]
    fn what_is_wrong_names_its_field() {
        let url = "https://me.example/";
        for (body, says) in [
            (json!({"webhook_events": ["complete"]}), "`webhook_events`: is for a job with a `webhook_url`"),
            (json!({"webhook_url": url, "webhook_events": []}), "`webhook_events`: is empty"),
            (
                json!({"webhook_url": url, "webhook_events": ["complete", "completed"]}),
                "`webhook_events[1]`: there is no such event; did you mean `complete`?",
            ),
            (
                json!({"webhook_url": url, "webhook_events": ["preview"]}),
                "`webhook_events[0]`: there is no such event; there are: accepted, progress",
            ),
            (
                json!({"webhook_url": format!("{url}{}", "x".repeat(MAX_WEBHOOK_URL))}),
                "`webhook_url`: 2019 characters; at most 2000",
            ),
        ] {
            let message = take(&body).unwrap_err();
            assert!(message.starts_with(says), "{message}");
        }
    }
}
