//! The streams of durable jobs: made when they are missing, read back, and refused when they are others than ours.
//!
//! Servers answer OK to settings that they do not know and leave them out, so nothing is believed that was not read back.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_nats::{
    Client,
    jetstream::{
        self, Context, ErrorCode,
        consumer::{AckPolicy, PullConsumer, pull},
        context::{
            ConsumerInfoErrorKind, CreateStreamErrorKind, GetStreamError, GetStreamErrorKind,
            RequestErrorKind,
        },
        stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType},
    },
};

use super::{BusError, StreamOptions, numbers::Numbers};
use crate::contract::{Capability, Subjects, model_token};

/// How long JetStream has for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long a message is known by its `Nats-Msg-Id`.
const DUPLICATES_WITHIN: Duration = Duration::from_secs(120);
/// Deliveries of a job, as a backstop alone: attempts are counted in events, and a job that waits for a worker which can
/// do it is delivered once a minute to those that cannot, for a week.
pub const MAX_DELIVER: i64 = 10_000;
/// Jobs of a model that may be with workers at one time: more than a pool has slots.
const MAX_ACK_PENDING: i64 = 10_000;
/// The waiting pulls of a model: more than a pool has workers.
const MAX_WAITING: i64 = 10_000;

/// The consumers that a stream may have. A server of 2.15 takes 1,000 where a stream says nothing, and JOBS has one for
/// each capability and model, EVENTS one for each queen; nats-server 2.9 does not let it be edited afterwards.
pub(super) const MAX_CONSUMERS: i32 = 10_000;

/// The time between two looks for streams that are missing.
const MEND_EVERY: Duration = Duration::from_secs(2);

/// A user who may not make streams gets no answer: how long they are only looked for after that.
const MAKE_AGAIN: Duration = Duration::from_secs(20);

/// The three streams. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Streams {
    pub(super) context: Context,
    pub(super) subjects: Subjects,
    pub(super) options: StreamOptions,
    /// Durable jobs, until they have ended.
    pub(super) jobs: String,
    /// Events and tickets.
    pub(super) events: String,
    /// Dead letters.
    pub(super) dead_letters: String,
    /// When missing streams were last looked for.
    mended: Arc<Mutex<Option<Instant>>>,
    /// When the server last gave no answer to the making of a stream.
    not_made: Arc<Mutex<Option<Instant>>>,
    /// The numbers of JOBS.
    pub(super) numbers: Arc<Numbers>,
    /// The streams as they were last read.
    sizes: Arc<Mutex<BTreeMap<&'static str, StreamSize>>>,
}

/// How full a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamSize {
    /// `JOBS`, `EVENTS` or `DLQ`, whatever prefix its name has.
    pub stream: &'static str,
    /// Messages in it.
    pub messages: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes that it may have; none: any number.
    pub limit: Option<u64>,
}

impl Streams {
    /// The streams of these subjects. Nothing is sent: see [`ensure`](Self::ensure).
    pub fn new(client: Client, subjects: Subjects, options: StreamOptions) -> Self {
        let mut context = jetstream::new(client);
        context.set_timeout(ANSWER_WITHIN);
        let name = |name| subjects.stream(name);
        let (jobs, events, dead_letters) = (name("JOBS"), name("EVENTS"), name("DLQ"));
        Self {
            context,
            subjects,
            options,
            jobs,
            events,
            dead_letters,
            mended: Arc::default(),
            not_made: Arc::default(),
            numbers: Arc::default(),
            sizes: Arc::default(),
        }
    }

    /// Makes the streams that are missing, and reads all of them back.
    ///
    /// # Errors
    /// [`BusError::NoJetStream`]; [`BusError::Mismatch`] with both; [`BusError::JetStream`] for what may pass.
    pub async fn ensure(&self) -> Result<(), BusError> {
        for config in self.configs() {
            let found = self.found_or_made(&config).await?;
            if found.subjects == self.earlier_subjects(&config.name) {
                return Err(BusError::Earlier { what: format!("stream {}", config.name) });
            }
            check_stream(&config, &found)?;
        }
        Ok(())
    }

    /// How full the streams were when they were last looked for.
    pub fn sizes(&self) -> Vec<StreamSize> {
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }

    fn note_size(&self, info: &Info) {
        let all = [("JOBS", &self.jobs), ("EVENTS", &self.events), ("DLQ", &self.dead_letters)];
        let Some((stream, _)) = all.into_iter().find(|(_, name)| **name == info.config.name) else { return };
        let limit = u64::try_from(info.config.max_bytes).ok().filter(|limit| *limit > 0);
        let size = StreamSize { stream, messages: info.state.messages, bytes: info.state.bytes, limit };
        self.sizes.lock().unwrap_or_else(PoisonError::into_inner).insert(stream, size);
    }

    /// What a stream captured in versions in which a job's subject did not name the job.
    pub(super) fn earlier_subjects(&self, stream: &str) -> Vec<String> {
        match stream {
            jobs if jobs == self.jobs => vec![self.subjects.jobs_without_id()],
            letters if letters == self.dead_letters => vec![self.subjects.dead_letters_without_id()],
            _ => vec![],
        }
    }

    /// Has streams that were deleted made again, after a request that found one missing. One look in a while does for all
    /// requests, and none of them waits for it: what it asks for may not be allowed to this user.
    pub(super) fn mend(&self) {
        {
            let mut last = self.mended.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|at| at.elapsed() < MEND_EVERY) {
                return;
            }
            *last = Some(Instant::now());
        }
        let streams = self.clone();
        tokio::spawn(async move {
            if let Err(error) = streams.ensure().await {
                tracing::warn!(%error, "a stream is missing");
            }
        });
    }

    pub(super) fn configs(&self) -> [Config; 3] {
        let StreamOptions { jobs_max_bytes, events_max_bytes, dlq_max_bytes, .. } = self.options;
        let common = |name: &str, subjects: Vec<String>, max_bytes: u64| Config {
            name: name.to_owned(),
            subjects,
            max_bytes: i64::try_from(max_bytes).unwrap_or(i64::MAX),
            storage: StorageType::File,
            max_consumers: MAX_CONSUMERS,
            num_replicas: self.options.stream_replicas,
            duplicate_window: DUPLICATES_WITHIN,
            ..Config::default()
        };
        [
            Config {
                retention: RetentionPolicy::WorkQueue,
                // A full queue refuses the new job; none that was accepted is dropped, neither for room nor for age.
                discard: DiscardPolicy::New,
                // A job is in the queue once, for as long as it is there.
                max_messages_per_subject: 1,
                discard_new_per_subject: true,
                ..common(&self.jobs, self.subjects.jobs_any(), jobs_max_bytes)
            },
            Config {
                retention: RetentionPolicy::Limits,
                discard: DiscardPolicy::Old,
                max_age: self.options.events_max_age,
                ..common(
                    &self.events,
                    vec![self.subjects.events_any(), self.subjects.ticket_any()],
                    events_max_bytes,
                )
            },
            Config {
                retention: RetentionPolicy::Limits,
                discard: DiscardPolicy::Old,
                max_messages_per_subject: 1,
                ..common(&self.dead_letters, vec![self.subjects.dead_letters_any()], dlq_max_bytes)
            },
        ]
    }

    async fn found_or_made(&self, config: &Config) -> Result<Config, BusError> {
        let name = &config.name;
        match self.context.get_stream(name).await {
            Ok(stream) => {
                self.note_size(stream.cached_info());
                return Ok(stream.cached_info().config.clone());
            }
            Err(error) if is_missing(&error) => {}
            Err(error) if is_disabled(&error) => return Err(BusError::NoJetStream),
            Err(error) => return Err(BusError::jetstream(format!("stream {name}"), error)),
        }
        if self.may_not_be_made() {
            return Err(BusError::NotMade(name.clone()));
        }
        let made = match self.context.create_stream(config).await {
            Ok(made) => made,
            Err(error) if error.kind() == CreateStreamErrorKind::TimedOut => {
                *self.not_made.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                return Err(BusError::NotMade(name.clone()));
            }
            Err(error) => return Err(BusError::jetstream(format!("making stream {name}"), error)),
        };
        self.note_size(made.cached_info());
        tracing::info!(stream = %name, "made a stream");
        Ok(made.cached_info().config.clone())
    }

    /// Whether a stream could not be made a while ago, as this user may not make any, so that it is only looked for.
    fn may_not_be_made(&self) -> bool {
        let last = *self.not_made.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|at| at.elapsed() < MAKE_AGAIN)
    }

    /// The name of the consumer of a capability and model.
    pub fn consumer_name(capability: Capability, model: &str) -> String {
        format!("{capability}-{}", model_token(model))
    }

    /// What the consumer of that name, for what this subject filters, must be like.
    pub(super) fn consumer_config(&self, name: &str, filter: String) -> pull::Config {
        pull::Config {
            durable_name: Some(name.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.options.ack_wait,
            max_deliver: MAX_DELIVER,
            filter_subject: filter,
            max_ack_pending: MAX_ACK_PENDING,
            max_waiting: MAX_WAITING,
            ..pull::Config::default()
        }
    }

    /// Sees to it that the jobs of a capability and model have their consumer, also where no worker is up: who scales a pool
    /// reads from it how many wait.
    ///
    /// # Errors
    /// As [`ensure`](Self::ensure).
    pub async fn ensure_consumer(&self, capability: Capability, model: &str) -> Result<(), BusError> {
        self.consumer(capability, model).await.map(drop)
    }

    /// Up to which number the consumer of that name has given jobs out.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn given_out(&self, consumer: &str) -> Result<u64, BusError> {
        let doing = || format!("consumer {consumer} of stream {}", self.jobs);
        let stream = self.context.get_stream_no_info(&self.jobs).await;
        let stream = stream.map_err(|error| BusError::jetstream(doing(), error))?;
        match stream.consumer_info(consumer).await {
            Ok(info) => Ok(info.delivered.stream_sequence),
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => Ok(0),
            Err(error) => Err(BusError::jetstream(doing(), error)),
        }
    }

    /// The consumer of the jobs of a capability and model, made when it is missing, and read back.
    ///
    /// # Errors
    /// As [`ensure`](Self::ensure).
    pub(super) async fn consumer(
        &self,
        capability: Capability,
        model: &str,
    ) -> Result<PullConsumer, BusError> {
        let name = Self::consumer_name(capability, model);
        let wanted = self.consumer_config(&name, self.subjects.jobs_of(capability, model));
        let what = format!("consumer {name} of stream {}", self.jobs);
        let failed = |error| BusError::jetstream(what.clone(), error);
        let stream = self.context.get_stream_no_info(&self.jobs).await;
        let stream = stream.map_err(|error| BusError::jetstream(what.clone(), error))?;
        // Makes it, or gives what is there, whatever that is like.
        let consumer = stream.get_or_create_consumer(&name, wanted.clone()).await.map_err(failed)?;
        let found = &consumer.cached_info().config;
        let differences = [
            ("ack policy", format!("{:?}", wanted.ack_policy), format!("{:?}", found.ack_policy)),
            ("ack wait", format!("{:?}", wanted.ack_wait), format!("{:?}", found.ack_wait)),
            ("deliveries", wanted.max_deliver.to_string(), found.max_deliver.to_string()),
            ("filter", wanted.filter_subject.clone(), found.filter_subject.clone()),
            ("backoff", "[]".into(), format!("{:?}", found.backoff)),
        ];
        compare(&what, &differences)?;
        Ok(consumer)
    }
}

pub(super) fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// No JetStream in the server, or not for our account.
fn is_disabled(error: &GetStreamError) -> bool {
    match error.kind() {
        GetStreamErrorKind::JetStream(error) => matches!(
            error.error_code(),
            ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
        ),
        _ => std::error::Error::source(error)
            .and_then(|source| source.downcast_ref::<jetstream::context::RequestError>())
            .is_some_and(|source| source.kind() == RequestErrorKind::NoResponders),
    }
}

/// What jobs depend on must be as we make it. Sizes, ages and replicas are for whoever runs the server to change.
fn check_stream(wanted: &Config, found: &Config) -> Result<(), BusError> {
    let window = |config: &Config| format!("{:?}", config.duplicate_window);
    let per_subject =
        |config: &Config| match (config.max_messages_per_subject, config.discard_new_per_subject) {
            (most @ 1.., true) => format!("at most {most}, new ones refused"),
            (most @ 1.., false) => format!("at most {most}"),
            _ => "any number".into(),
        };
    let differences = [
        ("subjects", format!("{:?}", wanted.subjects), format!("{:?}", found.subjects)),
        ("retention", format!("{:?}", wanted.retention), format!("{:?}", found.retention)),
        ("discard", format!("{:?}", wanted.discard), format!("{:?}", found.discard)),
        ("storage", format!("{:?}", wanted.storage), format!("{:?}", found.storage)),
        ("duplicate window", window(wanted), window(found)),
        ("messages of a subject", per_subject(wanted), per_subject(found)),
    ];
    compare(&format!("stream {}", wanted.name), &differences)?;
    if wanted.retention == RetentionPolicy::WorkQueue && !found.max_age.is_zero() {
        let found = format!("a maximum age of {:?}", found.max_age);
        let what = format!("stream {}", wanted.name);
        return Err(BusError::Mismatch {
            what,
            wanted: "none: jobs that were accepted would go".into(),
            found,
        });
    }
    let tunable = |config: &Config| (config.max_bytes, config.max_age, config.num_replicas);
    if tunable(wanted) != tunable(found) {
        tracing::info!(
            stream = %wanted.name,
            bytes = found.max_bytes, age = ?found.max_age, replicas = found.num_replicas,
            "the stream is kept with its own limits"
        );
    }
    Ok(())
}

fn compare(what: &str, differences: &[(&str, String, String)]) -> Result<(), BusError> {
    let different: Vec<_> = differences.iter().filter(|(_, wanted, found)| wanted != found).collect();
    if different.is_empty() {
        return Ok(());
    }
    let list = |pick: fn(&(&str, String, String)) -> String| -> String {
        different.iter().map(|entry| format!("{} {}", entry.0, pick(entry))).collect::<Vec<_>>().join(", ")
    };
    let (wanted, found) = (list(|entry| entry.1.clone()), list(|entry| entry.2.clone()));
    Err(BusError::Mismatch { what: what.to_owned(), wanted, found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_with_both_sides() {
        let same = ("storage", "File".to_owned(), "File".to_owned());
        let other = ("retention", "WorkQueue".to_owned(), "Limits".to_owned());
        assert!(compare("stream JOBS", std::slice::from_ref(&same)).is_ok());
        let text = compare("stream JOBS", &[same, other]).unwrap_err().to_string();
        assert!(text.contains("stream JOBS is there with retention Limits"), "{text}");
        assert!(text.contains("must have retention WorkQueue") && !text.contains("storage"), "{text}");
    }

    #[test]
    fn a_queue_that_would_drop_old_jobs_is_refused() {
        let wanted = Config { retention: RetentionPolicy::WorkQueue, ..Config::default() };
        let found = Config { max_age: Duration::from_secs(60), ..wanted.clone() };
        assert!(check_stream(&wanted, &found).is_err());
        assert!(check_stream(&wanted, &wanted).is_ok());
    }
}
