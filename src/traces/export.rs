//! Spans on their way out: so many wait and no more, one task sends them in batches, and what cannot be sent in time is
//! dropped and counted. Nobody who records a span waits for anything.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::{
    Client, StatusCode,
    header::{CONTENT_TYPE, HeaderMap},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};
use url::Url;

use super::{Span, Value, otlp};

/// Spans that wait to be sent; those that come beyond them are dropped. Each takes about a kilobyte.
const MAX_WAITING: usize = 1024;
/// Spans of one request.
const MAX_BATCH: usize = 256;
/// How long the first span of a batch waits for others.
const BATCH_WITHIN: Duration = Duration::from_secs(1);
/// How long the receiver has for one request.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Requests with the same batch, until it is dropped.
const TRIES: u32 = 3;
/// The pause before a batch is sent again; the next is as long again.
const PAUSE: Duration = Duration::from_secs(1);

/// The way to a receiver.
pub(super) struct Exporter {
    spans: mpsc::Sender<Message>,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Span(Box<Span>),
    /// Told when all that came before it is sent or dropped.
    Flush(oneshot::Sender<()>),
}

/// What sends.
struct Sender {
    client: Client,
    url: Url,
    headers: HeaderMap,
    resource: Vec<(&'static str, Value)>,
    dropped: Arc<AtomicU64>,
}

impl Exporter {
    /// Sends to this address, from now on, on the runtime that this is called in.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn start(
        url: Url,
        headers: HeaderMap,
        resource: Vec<(&'static str, Value)>,
    ) -> Result<Self, reqwest::Error> {
        let client = Client::builder().timeout(ANSWER_WITHIN).build()?;
        let (spans, waiting) = mpsc::channel(MAX_WAITING);
        let dropped = Arc::<AtomicU64>::default();
        let sender = Sender { client, url, headers, resource, dropped: dropped.clone() };
        tokio::spawn(sender.run(waiting));
        Ok(Self { spans, dropped })
    }

    /// Takes a span, if there is room for it.
    pub fn record(&self, span: Span) {
        if self.spans.try_send(Message::Span(Box::new(span))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Spans that were not sent.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until what was recorded is sent or dropped.
    pub async fn flush(&self) {
        let (done, told) = oneshot::channel();
        if self.spans.send(Message::Flush(done)).await.is_ok() {
            // The sender is gone only with its runtime.
            let _ = told.await;
        }
    }
}

impl Sender {
    async fn run(self, mut waiting: mpsc::Receiver<Message>) {
        let mut is_away = false;
        while let Some(first) = waiting.recv().await {
            let (spans, flushed) = batch(first, &mut waiting).await;
            let sent = match spans.is_empty() {
                true => Ok(()),
                false => self.send(&spans).await,
            };
            match &sent {
                Ok(()) if std::mem::take(&mut is_away) => {
                    tracing::info!(url = %self.url, "traces are taken again")
                }
                Ok(()) => {}
                Err(why) => {
                    self.dropped.fetch_add(spans.len() as u64, Ordering::Relaxed);
                    if !std::mem::replace(&mut is_away, true) {
                        tracing::warn!(url = %self.url, why, "traces are not taken, and are dropped until they are");
                    }
                }
            }
            if let Some(flushed) = flushed {
                // Whoever waited may have gone.
                let _ = flushed.send(());
            }
        }
    }

    async fn send(&self, spans: &[Span]) -> Result<(), String> {
        let body = bytes::Bytes::from(otlp::request(&self.resource, spans));
        let mut tries = 0;
        loop {
            tries += 1;
            let request = self.client.post(self.url.clone()).headers(self.headers.clone());
            let answer =
                request.header(CONTENT_TYPE, "application/x-protobuf").body(body.clone()).send().await;
            let why = match answer {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) if may_try_again(answer.status()) => answer.status().to_string(),
                Ok(answer) => return Err(answer.status().to_string()),
                // Without the address, which is told beside it.
                Err(error) => error.without_url().to_string(),
            };
            if tries >= TRIES {
                return Err(why);
            }
            tokio::time::sleep(PAUSE * tries).await;
        }
    }
}

/// As the protocol says.
fn may_try_again(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

/// The spans that are sent together, and who is to be told.
async fn batch(
    first: Message,
    waiting: &mut mpsc::Receiver<Message>,
) -> (Vec<Span>, Option<oneshot::Sender<()>>) {
    let until = Instant::now() + BATCH_WITHIN;
    let mut spans = vec![];
    let mut next = Some(first);
    loop {
        match next {
            Some(Message::Span(span)) => spans.push(*span),
            Some(Message::Flush(done)) => return (spans, Some(done)),
            None => return (spans, None),
        }
        if spans.len() >= MAX_BATCH {
            return (spans, None);
        }
        next = timeout_at(until, waiting.recv()).await.ok().flatten();
    }
}
