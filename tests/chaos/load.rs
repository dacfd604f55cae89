//! Senders: a job goes to any queen, and to another one with the same id until one of them answers.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use reqwest::Client;
use serde_json::Value;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    evidence::{Answer, Read, Sent},
    follow,
    random::Random,
    settings::Settings,
    wishes::{Follow, Wish},
};

/// An answer takes no longer, or the sender asks again.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How often a sender asks before it gives up.
const ATTEMPTS: u32 = 300;
/// Jobs that wait for an answer at one time.
const SENDERS: usize = 48;

/// Where queens listen.
#[derive(Debug, Clone)]
pub struct Front {
    pub client: Client,
    pub queens: Arc<Vec<String>>,
}

/// What senders and readers know. Shared by all of them.
#[derive(Default)]
pub struct Ledger {
    pub sent: Mutex<BTreeMap<String, Sent>>,
    pub read: Mutex<Vec<Read>>,
    pub complaints: Mutex<Vec<String>>,
}

impl Ledger {
    pub fn complain(&self, what: String) {
        self.complaints.lock().expect("no panic").push(what);
    }

    pub fn sent(&self) -> BTreeMap<String, Sent> {
        self.sent.lock().expect("no panic").clone()
    }
}

impl Front {
    pub fn new(queens: Vec<String>) -> Self {
        let client = Client::builder().no_proxy().connect_timeout(Duration::from_secs(2)).build();
        Self { client: client.expect("a client"), queens: Arc::new(queens) }
    }

    pub fn any(&self, random: &mut Random) -> &str {
        random.pick::<String>(&self.queens)
    }

    /// Sends a job until it is accepted, refused for good, or too many attempts have failed.
    pub async fn submit(&self, wish: &Wish, random: &mut Random) -> (Answer, u32) {
        for posts in 1..=ATTEMPTS {
            let url = format!("{}/v1/jobs", self.any(random));
            let answer = self.client.post(url).json(&wish.body).timeout(ANSWER_WITHIN).send().await;
            if let Ok(answer) = answer {
                let status = answer.status().as_u16();
                match answer.json::<Value>().await {
                    Ok(body) if status == 200 && body["job_id"] == wish.id => {
                        return (Answer::Accepted, posts);
                    }
                    Ok(body) if (400..500).contains(&status) && status != 429 => {
                        return (Answer::Refused(status, body.to_string()), posts);
                    }
                    _ => {}
                }
            }
            tokio::time::sleep(random.millis(50, 400)).await;
        }
        (Answer::Unknown, ATTEMPTS)
    }

    /// Cancels until a queen answers; the status.
    pub async fn cancel(&self, job: &str, random: &mut Random) -> Option<u16> {
        for _ in 0..ATTEMPTS {
            let url = format!("{}/v1/jobs/{job}", self.any(random));
            if let Ok(answer) = self.client.delete(url).timeout(ANSWER_WITHIN).send().await
                && answer.status().as_u16() < 500
            {
                return Some(answer.status().as_u16());
            }
            tokio::time::sleep(random.millis(50, 400)).await;
        }
        None
    }

    /// GET of a path of one queen: status and body, tried again while it does not answer well.
    pub async fn get(&self, queen: usize, path: &str) -> (u16, Value) {
        let url = format!("{}{path}", self.queens[queen]);
        let mut last = (0, Value::Null);
        for _ in 0..ATTEMPTS {
            if let Ok(answer) = self.client.get(&url).timeout(ANSWER_WITHIN).send().await {
                last = (answer.status().as_u16(), answer.json().await.unwrap_or_default());
                if last.0 < 500 {
                    return last;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        last
    }
}

/// Sends the run's jobs over its time, and ends when each has its answer. Readers go on in `readers`.
pub async fn send_all(settings: &Settings, front: &Front, ledger: &Arc<Ledger>, readers: &mut JoinSet<()>) {
    let mut random = Random::of(settings.seed, "load");
    let senders = Arc::new(Semaphore::new(SENDERS));
    let mut pace = tokio::time::interval(settings.load / settings.jobs.max(1));
    let mut sending = JoinSet::new();
    for number in 0..settings.jobs {
        let wish = Wish::draw(number, settings.shapes, &mut random);
        let own = Random::of(settings.seed, &wish.id);
        pace.tick().await;
        let permit = senders.clone().acquire_owned().await.expect("it is not closed");
        let (to, noted) = (front.clone(), ledger.clone());
        sending.spawn(async move {
            let accepted = send_one(wish, own.clone(), &to, &noted).await;
            drop(permit);
            (accepted, own)
        });
        while let Some(sent) = sending.try_join_next() {
            read_along(sent.expect("no panic"), front.clone(), ledger.clone(), readers);
        }
    }
    while let Some(sent) = sending.join_next().await {
        read_along(sent.expect("no panic"), front.clone(), ledger.clone(), readers);
    }
}

/// Sends one job and notes what becomes of it; the job if it was accepted.
pub async fn send_one(wish: Wish, mut random: Random, front: &Front, ledger: &Ledger) -> Option<Wish> {
    let (answer, posts) = front.submit(&wish, &mut random).await;
    let accepted = answer == Answer::Accepted;
    let sent = Sent { wish: wish.clone(), answer, posts, cancel: None, restored: false };
    ledger.sent.lock().expect("no panic").insert(wish.id.clone(), sent);
    accepted.then_some(wish)
}

fn read_along(
    (wish, random): (Option<Wish>, Random),
    front: Front,
    ledger: Arc<Ledger>,
    readers: &mut JoinSet<()>,
) {
    let Some(wish) = wish else { return };
    readers.spawn(async move {
        let cancel = async {
            let Some(after) = wish.cancel_after else { return };
            let mut random = random.clone();
            tokio::time::sleep(after).await;
            let status = front.cancel(&wish.id, &mut random).await;
            if let Some(status @ (400..=408 | 410..)) = status {
                ledger.complain(format!("{}: DELETE of an accepted job was answered by {status}", wish.id));
            }
            if let Some(sent) = ledger.sent.lock().expect("no panic").get_mut(&wish.id) {
                sent.cancel = status;
            }
        };
        let mut random = random.clone();
        let follow = async {
            match wish.follow {
                Follow::No => {}
                Follow::Poll => follow::poll(&front, &ledger, &wish.id, &mut random).await,
                Follow::Stream => follow::stream(&front, &ledger, &wish.id, false, &mut random).await,
                Follow::FickleStream => follow::stream(&front, &ledger, &wish.id, true, &mut random).await,
            }
        };
        tokio::join!(cancel, follow);
    });
}
