//! Requests on `image.generate`, some under way at a time, from one connection with one inbox: as little as possible is
//! spent on asking, because the worker has to share the machine with it.

use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap, Message, StatusCode};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use sd_worker_rbee::contract::headers;

/// A door is armed again a moment after its job: the pause before a job that nobody took is asked for again.
const PAUSE: Duration = Duration::from_micros(200);

/// What a run of requests came to.
pub struct Run {
    /// From the first request to the last reply.
    pub took: Duration,
    /// Requests that were sent.
    pub asked: usize,
    /// From each job's first request to its last reply.
    pub each: Vec<Duration>,
}

/// Asks for `jobs` jobs, `together` of them at a time, until each is complete. `ids`: under ids of this beginning.
pub async fn run(
    client: &Client,
    subject: &str,
    body: &'static str,
    ids: Option<&str>,
    together: usize,
    jobs: usize,
) -> Run {
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(format!("{inbox}.*")).await.expect("an inbox");
    let ask = async |number: usize| {
        let reply = format!("{inbox}.{number}");
        let mut map = HeaderMap::new();
        if let Some(ids) = ids {
            map.insert(headers::JOB_ID, format!("{ids}-{number}"));
        }
        let (subject, body) = (subject.to_owned(), body.into());
        client.publish_with_reply_and_headers(subject, reply, map, body).await.expect("a request");
    };
    let begun = Instant::now();
    let (mut asked, mut each) = (0, Vec::with_capacity(jobs));
    let mut first_asked = vec![begun; jobs];
    let mut completed = vec![false; jobs];
    let mut pauses = FuturesUnordered::new();
    let mut next = 0;
    while next < together.min(jobs) {
        first_asked[next] = Instant::now();
        ask(next).await;
        (asked, next) = (asked + 1, next + 1);
    }
    while each.len() < jobs {
        let again = |number: usize| tokio::time::sleep(PAUSE).map(move |()| number);
        let message = tokio::select! {
            message = replies.next() => message.expect("a connection"),
            Some(number) = pauses.next() => {
                ask(number).await;
                asked += 1;
                continue;
            }
        };
        let number = number_of(&message);
        match read(&message) {
            Reply::Complete => completed[number] = true,
            Reply::NotTaken => {}
            Reply::End if completed[number] => {
                each.push(first_asked[number].elapsed());
                if next < jobs {
                    first_asked[next] = Instant::now();
                    ask(next).await;
                    (asked, next) = (asked + 1, next + 1);
                }
            }
            Reply::End | Reply::NoResponders => pauses.push(again(number)),
        }
    }
    Run { took: begun.elapsed(), asked, each }
}

enum Reply {
    Complete,
    NotTaken,
    End,
    NoResponders,
}

fn number_of(message: &Message) -> usize {
    let token = message.subject.rsplit('.').next().expect("a token");
    token.parse().expect("the number of a request")
}

fn read(message: &Message) -> Reply {
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Reply::NoResponders;
    }
    match event_of(message.headers.as_ref()) {
        "complete" => Reply::Complete,
        headers::EVENT_END => Reply::End,
        "error" => {
            let text = String::from_utf8_lossy(&message.payload);
            assert!(text.contains(r#""busy""#), "{text}");
            Reply::NotTaken
        }
        other => panic!("a requester that wants the end alone is told `{other}`"),
    }
}

/// The type of the event in a message.
pub fn event_of(map: Option<&HeaderMap>) -> &str {
    map.and_then(|map| map.get(headers::JOB_EVENT)).map_or("", |value| value.as_str())
}
