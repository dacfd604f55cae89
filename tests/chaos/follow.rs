//! Readers of a job: over its stream of events, or by asking again and again. Both outlive any queen.

use std::time::Duration;

use futures::StreamExt;
use serde_json::Value;

use super::{
    evidence::Read,
    load::{Front, Ledger},
    random::Random,
};

/// More than two of queen's keep-alives: a connection that is silent for longer is dead.
const SILENCE: Duration = Duration::from_secs(25);
/// Between two questions.
const POLL: Duration = Duration::from_millis(250);

/// Follows a job's stream to its end, and connects again with the last id after each cut. A fickle reader leaves by
/// itself after every few events.
pub async fn stream(front: &Front, ledger: &Ledger, job: &str, fickle: bool, random: &mut Random) {
    // Whoever is dropped in the middle has not been told of the end, which is seen by what is left here.
    let mut read = Unfinished { ledger, read: Some(Read { job: job.to_owned(), ..Read::default() }) };
    while read.now().ended.is_none() {
        let leave_after = if fickle { 1 + random.below(3) } else { usize::MAX };
        let queen = front.any(random).to_owned();
        read.now().connections += 1;
        if let Err(complaint) = connection(front, &queen, read.now(), leave_after).await {
            ledger.complain(format!("{job}: {complaint}"));
            return;
        }
        if read.now().ended.is_none() {
            tokio::time::sleep(random.millis(20, 300)).await;
        }
    }
}

/// Puts what was read into the ledger when its reader ends, however it ends.
struct Unfinished<'a> {
    ledger: &'a Ledger,
    read: Option<Read>,
}

impl Unfinished<'_> {
    fn now(&mut self) -> &mut Read {
        self.read.as_mut().expect("it is taken by the drop alone")
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let (Some(read), Ok(mut all)) = (self.read.take(), self.ledger.read.lock()) {
            all.push(read);
        }
    }
}

/// One connection, for as long as it lasts. What a queen must never say is an error.
async fn connection(front: &Front, queen: &str, read: &mut Read, leave_after: usize) -> Result<(), String> {
    let mut request = front.client.get(format!("{queen}/v1/jobs/{}/stream", read.job));
    if let Some((last, _)) = read.events.last() {
        request = request.header("last-event-id", last.to_string());
    }
    let Ok(Ok(answer)) = tokio::time::timeout(SILENCE, request.send()).await else { return Ok(()) };
    match answer.status().as_u16() {
        200 => {}
        status if status >= 500 => return Ok(()),
        status => {
            let body = answer.text().await.unwrap_or_default();
            return Err(format!("the stream of an accepted job was answered by {status} {body}"));
        }
    }
    let (mut bytes, mut text, mut here) = (answer.bytes_stream(), String::new(), 0);
    while let Ok(Some(Ok(more))) = tokio::time::timeout(SILENCE, bytes.next()).await {
        text.push_str(&String::from_utf8_lossy(&more));
        while let Some((block, rest)) = text.split_once("\n\n") {
            take(block, read)?;
            text = rest.to_owned();
            here += 1;
            if read.ended.is_some() || here >= leave_after {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// One block of a stream: an event with its id, what is not kept and has none (a preview, a place in line), the line at
/// the end, or a comment.
fn take(block: &str, read: &mut Read) -> Result<(), String> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim_start);
    let Some(data) = field("data:") else { return Ok(()) };
    if data.starts_with('[') {
        read.ended = Some(data.to_owned());
        return Ok(());
    }
    let event: Value =
        serde_json::from_str(data).map_err(|e| format!("an event that is no JSON: {e}: {data}"))?;
    let name = event["type"].as_str().unwrap_or_default().to_owned();
    let id = field("id:");
    let is_named = match id {
        Some(id) => id.parse().is_ok_and(|id: u64| event["seq"] == id),
        None => name == "preview" || name == "queued",
    };
    if event["job_id"] != read.job.as_str() || !is_named {
        return Err(format!("an event of id {id:?} on the stream of {}: {data}", read.job));
    }
    let entry = (event["seq"].as_u64().unwrap_or_default(), name);
    // Whoever left between the last event and the line at the end is told of both when he comes again.
    if id.is_some() && (read.connections < 2 || read.events.last() != Some(&entry)) {
        read.events.push(entry);
    }
    Ok(())
}

/// Asks any queen how the job is, until it has ended, and three times more.
pub async fn poll(front: &Front, ledger: &Ledger, job: &str, random: &mut Random) {
    let (mut end, mut again) = (None, 0);
    while again < 3 {
        tokio::time::sleep(POLL).await;
        let queen = random.below(front.queens.len());
        let (http, body) = front.get(queen, &format!("/v1/jobs/{job}")).await;
        let status = body["status"].as_str().unwrap_or_default().to_owned();
        match http {
            200 => {}
            0 | 500.. => continue,
            _ => {
                ledger.complain(format!("{job}: a view of an accepted job was answered by {http} {body}"));
                return;
            }
        }
        let ended = ["completed", "failed", "cancelled"].contains(&status.as_str());
        match &end {
            None if ended => end = Some(status),
            None => {}
            Some(first) if *first == status => again += 1,
            Some(first) => {
                ledger.complain(format!("{job}: was said to be {first}, and then {status}"));
                return;
            }
        }
    }
}

#[test]
fn a_stream_is_read_block_by_block() {
    let mut read = Read { job: "j".into(), ..Read::default() };
    take(": keep-alive", &mut read).unwrap();
    take("id: 3\ndata: {\"job_id\":\"j\",\"seq\":3,\"type\":\"progress\"}", &mut read).unwrap();
    assert_eq!((read.events.clone(), read.ended.clone()), (vec![(3, "progress".to_owned())], None));
    assert!(take("id: 4\ndata: {\"job_id\":\"k\",\"seq\":4,\"type\":\"progress\"}", &mut read).is_err());
    assert!(take("id: 4\ndata: {\"job_id\":\"j\",\"seq\":5,\"type\":\"progress\"}", &mut read).is_err());
    assert!(take("data: {\"job_id\":\"j\",\"seq\":4,\"type\":\"progress\"}", &mut read).is_err());
    take("data: {\"job_id\":\"j\",\"seq\":4,\"type\":\"preview\"}", &mut read).unwrap();
    take("data: {\"job_id\":\"j\",\"position\":0,\"reason\":null,\"type\":\"queued\"}", &mut read).unwrap();
    assert_eq!(read.events.len(), 1, "a preview has no place in the order");
    take("data: [DONE]", &mut read).unwrap();
    assert_eq!(read.ended.as_deref(), Some("[DONE]"));
}
