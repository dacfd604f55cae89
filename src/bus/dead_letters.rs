//! Dead letters: durable jobs that failed on every worker that tried them, kept for whoever runs the pool.

use std::{collections::VecDeque, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{
        message::StreamMessage,
        stream::{DeleteMessageErrorKind, LastRawMessageErrorKind, Stream},
    },
};
use bytes::Bytes;

use super::{BusError, Streams, ordered::Range};
use crate::contract::{Capability, DeadLetter, ErrorCode, JobId, Operation, headers};

/// How long the stream has to deliver the next letter while all are looked through.
const NEXT_WITHIN: Duration = Duration::from_secs(5);

/// A dead letter with what is needed to send its job again.
#[derive(Debug, Clone)]
pub struct StoredLetter {
    /// What is told of it.
    pub letter: DeadLetter,
    /// The subject that the job came on.
    pub subject: String,
    /// The operation.
    pub body: Bytes,
    /// The client that sent the job, where that is known.
    pub owner: Option<String>,
    /// W3C trace context of the job.
    pub traceparent: Option<String>,
}

impl Streams {
    /// The newest `limit` dead letters, the newest last, of those whose job's owner is `wanted`.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn dead_letters(
        &self,
        limit: usize,
        wanted: impl Fn(Option<&str>) -> bool,
    ) -> Result<Vec<DeadLetter>, BusError> {
        let mut newest = VecDeque::new();
        self.each_letter(|message| {
            if !wanted(text(&message.headers, headers::JOB_OWNER)) {
                return;
            }
            if newest.len() >= limit {
                newest.pop_front();
            }
            newest.push_back(message.sequence);
        })
        .await?;
        let stream = self.dead_letter_stream().await?;
        let mut letters = vec![];
        for sequence in newest {
            letters.extend(self.letter_at(&stream, sequence).await?.map(|stored| stored.letter));
        }
        Ok(letters)
    }

    /// The dead letter of a job.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn dead_letter(&self, job: &JobId) -> Result<Option<StoredLetter>, BusError> {
        let stream = self.dead_letter_stream().await?;
        Ok(self.last_letter(&stream, job).await?.and_then(stored_letter))
    }

    /// Removes the dead letters of a job; how many there were.
    ///
    /// # Errors
    /// When JetStream does not answer.
    pub async fn drop_dead_letters(&self, job: &JobId) -> Result<usize, BusError> {
        let stream = self.dead_letter_stream().await?;
        let mut dropped = 0;
        // One for each capability at most.
        while let Some(letter) = self.last_letter(&stream, job).await? {
            self.drop_letter(letter.sequence).await?;
            dropped += 1;
        }
        Ok(dropped)
    }

    /// Removes the dead letter with this number.
    pub(super) async fn drop_letter(&self, sequence: u64) -> Result<(), BusError> {
        let stream = self.dead_letter_stream().await?;
        match stream.delete_message(sequence).await {
            Ok(_) => Ok(()),
            // Somebody else removed it.
            Err(error) if matches!(error.kind(), DeleteMessageErrorKind::JetStream(_)) => Ok(()),
            Err(error) => Err(BusError::jetstream(format!("removing dead letter {sequence}"), error)),
        }
    }

    async fn last_letter(&self, stream: &Stream<()>, job: &JobId) -> Result<Option<StreamMessage>, BusError> {
        match stream.get_last_raw_message_by_subject(&self.subjects.dead_letters_of(job)).await {
            Ok(message) => Ok(Some(message)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(BusError::jetstream(format!("reading the dead letter of {job}"), error)),
        }
    }

    /// Shows every letter that there is now, without its body.
    async fn each_letter(&self, mut see: impl FnMut(&StreamMessage)) -> Result<(), BusError> {
        let failed = |error| BusError::jetstream(format!("reading {}", self.dead_letters), error);
        let stream = self.context.get_stream(&self.dead_letters).await;
        let state = stream.map_err(failed)?.cached_info().state.clone();
        if state.messages == 0 {
            return Ok(());
        }
        let subject = self.subjects.dead_letters_any();
        let mut letters =
            self.read(Range { stream: self.dead_letters.clone(), subject, headers_only: true }).await?;
        loop {
            // None within the time: the last ones were removed meanwhile, or JetStream is away.
            let Ok(Some(delivered)) = tokio::time::timeout(NEXT_WITHIN, letters.next()).await else {
                let reason = format!("no letter came within {NEXT_WITHIN:?}");
                return Err(BusError::JetStream { doing: format!("reading {}", self.dead_letters), reason });
            };
            see(&delivered.message);
            if delivered.pending == 0 || delivered.message.sequence >= state.last_sequence {
                return Ok(());
            }
        }
    }

    async fn letter_at(&self, stream: &Stream<()>, sequence: u64) -> Result<Option<StoredLetter>, BusError> {
        match stream.get_raw_message(sequence).await {
            Ok(message) => Ok(stored_letter(message)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(BusError::jetstream(format!("reading dead letter {sequence}"), error)),
        }
    }

    async fn dead_letter_stream(&self) -> Result<Stream<()>, BusError> {
        let stream = self.context.get_stream_no_info(&self.dead_letters).await;
        stream.map_err(|error| BusError::jetstream(format!("stream {}", self.dead_letters), error))
    }
}

fn text<'a>(map: &'a HeaderMap, name: &str) -> Option<&'a str> {
    map.get(name).map(|value| value.as_str())
}

/// `None` for a message that no worker of ours wrote.
fn stored_letter(message: StreamMessage) -> Option<StoredLetter> {
    let StreamMessage { subject, sequence, headers: map, payload, time } = message;
    let header = |name: &str| text(&map, name);
    let capability: Capability = subject.rsplit('.').nth(1)?.parse().ok()?;
    let job_subject = header(headers::JOB_SUBJECT)?.to_owned();
    let model = Operation::parse(Some(capability), &payload).ok().and_then(|o| o.model().map(str::to_owned));
    let model = model.or_else(|| Some(job_subject.rsplit('.').nth(1)?.to_owned()))?;
    let code = header(headers::JOB_ERROR_CODE).and_then(ErrorCode::from_code).unwrap_or(ErrorCode::Internal);
    let since_epoch = Duration::from_nanos(u64::try_from(time.unix_timestamp_nanos()).unwrap_or(0));
    let letter = DeadLetter {
        job_id: JobId::new(header(headers::JOB_ID)?).ok()?,
        capability,
        model,
        code,
        message: header(headers::JOB_ERROR).unwrap_or_default().to_owned(),
        sequence,
        time: humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + since_epoch).to_string(),
    };
    let traceparent = header(headers::TRACEPARENT).map(str::to_owned);
    let owner = header(headers::JOB_OWNER).map(str::to_owned);
    Some(StoredLetter { letter, subject: job_subject, body: payload, owner, traceparent })
}
