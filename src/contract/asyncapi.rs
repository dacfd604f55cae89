//! The AsyncAPI document (3.0) of the bus: every subject under no prefix, and what is on it, as whoever uses a pool over NATS
//! sees it. `schemas/asyncapi.yaml` is this.

use std::{borrow::Cow, str::FromStr};

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    Capability, Command, ContractError, ErrorBody, Event, JobId, Operation, Subjects, WorkerId, WorkerInfo,
    headers,
};

/// What clients of the bus do at a channel.
#[derive(Clone, Copy)]
enum Does {
    /// They send.
    Send,
    /// They listen.
    Receive,
}

/// The document.
pub fn asyncapi() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = Cow::Borrowed("/components/schemas");
        settings.meta_schema = None;
    });
    let mut bus = Bus { generator: settings.into_generator(), ..Bus::default() };
    bus.messages();
    bus.jobs();
    bus.events();
    bus.workers();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "The bus of an image pool",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Requests are answered on their reply subject. A pool may put a prefix before every subject \
                            (--subject-prefix). What is stored is in the streams JOBS, EVENTS and DLQ.",
            "license": {"name": env!("CARGO_PKG_LICENSE")},
        },
        "defaultContentType": "application/json",
        "channels": bus.channels,
        "operations": bus.operations,
        "components": {
            "messages": bus.messages,
            "schemas": bus.generator.take_definitions(true),
        },
    })
}

#[derive(Default)]
struct Bus {
    generator: SchemaGenerator,
    messages: Map<String, Value>,
    channels: Map<String, Value>,
    operations: Map<String, Value>,
}

impl Bus {
    fn message<T: JsonSchema>(&mut self, name: &str, summary: &str, of_headers: &[(&str, &str)]) {
        let payload = self.generator.subschema_for::<T>();
        let mut message = json!({"name": name, "summary": summary, "payload": payload});
        if !of_headers.is_empty() {
            let properties: Map<String, Value> = of_headers
                .iter()
                .map(|(name, says)| ((*name).to_owned(), json!({"type": "string", "description": says})))
                .collect();
            message["headers"] = json!({"type": "object", "properties": properties});
        }
        self.messages.insert(name.to_owned(), message);
    }

    fn messages(&mut self) {
        let trace = (headers::TRACEPARENT, "W3C trace context.");
        self.message::<Operation>(
            "job",
            "A job. On a subject of a capability `operation` may be left out.",
            &[
                (
                    headers::MESSAGE_ID,
                    "The job's id; a second message with it within two minutes is not stored.",
                ),
                trace,
            ],
        );
        self.message::<Event>(
            "event",
            "How a job goes. One of complete, error and cancelled is its last.",
            &[
                (headers::JOB_ID, "The job."),
                (headers::JOB_EVENT, "The event's type; `end` on the empty message after the last one."),
                (headers::JOB_SEQ, "The event's number within the job."),
                (headers::WORKER_ID, "The worker that sent it."),
                (headers::SERVICE_ERROR_CODE, "On `error`: the HTTP status of its code."),
                (headers::SERVICE_ERROR, "On `error`: why, in words."),
                trace,
            ],
        );
        self.message::<Operation>(
            "deadLetter",
            "A job that failed on every worker that tried it.",
            &[
                (headers::JOB_SUBJECT, "The subject that the job came on."),
                (headers::JOB_ERROR_CODE, "How its last attempt failed."),
                (headers::JOB_ERROR, "Why, in words."),
                (headers::JOB_OWNER, "The client of queen's that sent it."),
            ],
        );
        self.message::<WorkerInfo>("worker", "A worker, as it is.", &[]);
        self.message::<Command>("command", "What an operator tells a worker.", &[]);
        self.message::<ErrorBody>("refusal", "Why nothing was done.", &[]);
        let nothing = json!({"name": "nothing", "summary": "An empty message."});
        self.messages.insert("nothing".into(), nothing);
        let (job, worker) =
            (self.generator.subschema_for::<JobId>(), self.generator.subschema_for::<WorkerId>());
        let holder = json!({
            "name": "holder",
            "summary": "The worker that has the job.",
            "payload": {
                "type": "object",
                "properties": {"job_id": job, "worker_id": worker},
                "required": ["job_id", "worker_id"],
            },
        });
        self.messages.insert("holder".into(), holder);
    }

    /// A channel, and what clients do at it. `replies`: what comes on the reply subject.
    fn channel(
        &mut self,
        name: &str,
        subject: &str,
        says: &str,
        does: Does,
        message: &str,
        replies: &[&str],
    ) {
        let (address, parameters) = addressed(subject);
        let said = |name: &str| json!({"$ref": format!("#/components/messages/{name}")});
        let mut channel =
            json!({"address": address, "description": says, "messages": {message: said(message)}});
        if !parameters.is_empty() {
            channel["parameters"] = parameters.into();
        }
        self.channels.insert(name.to_owned(), channel);
        let at = |channel: &str| json!({"$ref": format!("#/channels/{channel}")});
        let of = |channel: &str, message: &str| json!({"$ref": format!("#/channels/{channel}/messages/{message}")});
        let action = match does {
            Does::Send => "send",
            Does::Receive => "receive",
        };
        let mut operation =
            json!({"action": action, "channel": at(name), "summary": says, "messages": [of(name, message)]});
        if !replies.is_empty() {
            let answers = format!("{name}Replies");
            let messages: Map<String, Value> =
                replies.iter().map(|reply| ((*reply).to_owned(), said(reply))).collect();
            let replied: Vec<_> = replies.iter().map(|reply| of(&answers, reply)).collect();
            operation["reply"] = json!({
                "address": {"location": "$message.header#/reply", "description": "The reply subject of the request."},
                "channel": at(&answers),
                "messages": replied,
            });
            self.channels.insert(answers, json!({"address": null, "messages": messages}));
        }
        self.operations.insert(format!("{action}-{name}"), operation);
    }

    fn jobs(&mut self) {
        let (subjects, job) = (Subjects::default(), placeholder::<JobId>("job"));
        for capability in Capability::ALL {
            let says = "A job for any worker with a free slot; without one there are no responders.";
            let name = format!("image-{capability}");
            self.channel(&name, &subjects.image(capability), says, Does::Send, "job", &["event"]);
            let says = "A job for that worker.";
            let worker = placeholder::<WorkerId>("worker");
            let name = format!("direct-{capability}");
            self.channel(&name, &subjects.direct(&worker, capability), says, Does::Send, "job", &["event"]);
            let says =
                "A job that waits for a worker, whatever happens meanwhile. It is kept in the stream JOBS.";
            let name = format!("durable-{capability}");
            self.channel(&name, &subjects.jobs(capability, "_model_", &job), says, Does::Send, "job", &[]);
            let says = "What ran out of deliveries. It is kept in the stream DLQ.";
            let name = format!("dead-letter-{capability}");
            let subject = subjects.dead_letter(capability.token(), &job);
            self.channel(&name, &subject, says, Does::Receive, "deadLetter", &[]);
        }
        let says = "Asks for a job to be cancelled. The worker that has it answers; its last event says how it ended.";
        self.channel("cancel", &subjects.cancel(&job), says, Does::Send, "nothing", &["holder"]);
    }

    fn events(&mut self) {
        let (subjects, job) = (Subjects::default(), placeholder::<JobId>("job"));
        let says = "The events of a job, but for previews. They are kept in the stream EVENTS.";
        self.channel("events", &subjects.events(&job), says, Does::Receive, "event", &[]);
        let says = "The previews of a job. They are not kept.";
        self.channel("previews", &subjects.previews(&job), says, Does::Receive, "event", &[]);
    }

    fn workers(&mut self) {
        let (subjects, worker) = (Subjects::default(), placeholder::<WorkerId>("worker"));
        let says = "How a worker is, every 10 s and when it changes.";
        self.channel("heartbeat", &subjects.heartbeat(&worker), says, Does::Receive, "worker", &[]);
        let says = "Tells a worker to drain, to resume, to load or unload a model, or to say how it is.";
        let replies = &["worker", "refusal"];
        self.channel("control", &subjects.control(&worker), says, Does::Send, "command", replies);
    }
}

/// What stands in a subject where an id is: `_name_`, which [`addressed`] turns into `{name}`.
fn placeholder<T: FromStr<Err = ContractError>>(name: &str) -> T {
    format!("_{name}_").parse().expect("letters and underscores are an id")
}

/// The address of a subject, and its parameters.
fn addressed(subject: &str) -> (String, Map<String, Value>) {
    let mut parameters = Map::new();
    let tokens = subject.split('.').map(|token| {
        match token.strip_prefix('_').and_then(|token| token.strip_suffix('_')) {
            None => token.to_owned(),
            Some(name) => {
                let says = match name {
                    "job" => "The job's id.",
                    "worker" => "The worker's id.",
                    _ => "The model's name; what is not `A-Z a-z 0-9 - _` in it is `-`.",
                };
                parameters.insert(name.to_owned(), json!({"description": says}));
                format!("{{{name}}}")
            }
        }
    });
    let address = tokens.collect::<Vec<_>>().join(".");
    (address, parameters)
}
