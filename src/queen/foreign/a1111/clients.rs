//! What each client has under way, and the model that it has chosen. A client is a token's name, or an address where no token
//! is asked for: what others draw is none of its business, and it waits for none of them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{contract::JobId, queen::auth::Client};

/// Clients that are remembered; beyond them those that have been away for the longest are forgotten.
const MAX_CLIENTS: usize = 10_000;

/// All clients. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Clients(Arc<Mutex<HashMap<Client, Of>>>);

/// One client.
#[derive(Debug)]
struct Of {
    model: Option<String>,
    running: Vec<Arc<Running>>,
    seen: Instant,
}

/// A call that is under way.
#[derive(Debug)]
pub(super) struct Running {
    /// What the client calls it.
    pub task: Option<String>,
    /// Pictures of the job.
    pub pictures: u64,
    id: OnceLock<JobId>,
    begun: Instant,
    interrupted: AtomicBool,
    /// Ends the wait for a worker.
    stop: CancellationToken,
    shown: Mutex<Shown>,
}

/// How far a job is.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Shown {
    /// Steps done, over all pictures of the job.
    pub step: u32,
    /// Steps in all; 0: not known yet.
    pub total: u32,
    /// To the last step, at the present pace.
    pub eta: Duration,
    /// The newest preview, a JPEG in base64.
    pub preview: Option<String>,
}

/// Holds a call's place among those of its client.
pub(super) struct Under {
    clients: Clients,
    client: Client,
    running: Arc<Running>,
}

impl Clients {
    /// A call begins.
    pub fn begin(&self, client: &Client, task: Option<String>, pictures: u64) -> Under {
        let running = Arc::new(Running {
            task,
            pictures,
            id: OnceLock::new(),
            begun: Instant::now(),
            interrupted: AtomicBool::new(false),
            stop: CancellationToken::new(),
            shown: Mutex::default(),
        });
        self.of(client, |of| of.running.push(running.clone()));
        Under { clients: self.clone(), client: client.clone(), running }
    }

    /// What a client has under way, the oldest first.
    pub fn running(&self, client: &Client) -> Vec<Arc<Running>> {
        self.lock().get(client).map(|of| of.running.clone()).unwrap_or_default()
    }

    /// The model that a client has chosen.
    pub fn model(&self, client: &Client) -> Option<String> {
        self.lock().get(client)?.model.clone()
    }

    /// A client chooses a model.
    pub fn choose(&self, client: &Client, model: String) {
        self.of(client, |of| of.model = Some(model));
    }

    fn of(&self, client: &Client, with: impl FnOnce(&mut Of)) {
        let mut clients = self.lock();
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(client) {
            let idle = clients.iter().filter(|(_, of)| of.running.is_empty());
            let away = idle.min_by_key(|(_, of)| of.seen).map(|(client, _)| client.clone());
            if let Some(away) = away {
                clients.remove(&away);
            }
        }
        let now = Instant::now();
        let new = || Of { model: None, running: vec![], seen: now };
        let of = clients.entry(client.clone()).or_insert_with(new);
        of.seen = now;
        with(of);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Client, Of>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// The job, once there is one.
    pub fn id(&self) -> Option<&JobId> {
        self.id.get()
    }

    /// There is a job.
    pub fn is_job(&self, id: &JobId) {
        // A job that is sent again keeps its id.
        let _ = self.id.set(id.clone());
    }

    /// The client does not want it any more.
    pub fn interrupt(&self) {
        self.interrupted.store(true, Ordering::SeqCst);
        self.stop.cancel();
    }

    /// Whether the client does not want it any more.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }

    /// Waits until the client does not want it any more.
    pub async fn interruption(&self) {
        self.stop.cancelled().await;
    }

    /// How long it has been under way.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// How far it is.
    pub fn shown(&self) -> Shown {
        self.show().clone()
    }

    /// Where how far it is is written.
    pub fn show(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::ops::Deref for Under {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        if let Some(of) = self.clients.lock().get_mut(&self.client) {
            of.running.retain(|running| !Arc::ptr_eq(running, &self.running));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> Client {
        Client::At(std::net::Ipv4Addr::from_bits(number).into())
    }

    #[test]
    fn a_client_sees_its_own_calls_until_they_end() {
        let clients = Clients::default();
        let (a, b) = (client(1), client(2));
        let first = clients.begin(&a, Some("task(x)".into()), 1);
        let second = clients.begin(&a, None, 2);
        assert_eq!((clients.running(&a).len(), clients.running(&b).len()), (2, 0));
        assert_eq!(clients.running(&a)[0].task.as_deref(), Some("task(x)"));
        clients.running(&a)[0].interrupt();
        assert!(first.is_interrupted() && !second.is_interrupted());
        drop(first);
        assert_eq!(clients.running(&a).len(), 1);
        drop(second);
        assert!(clients.running(&a).is_empty());
    }

    #[test]
    fn a_chosen_model_is_remembered_and_clients_without_end_are_not() {
        let clients = Clients::default();
        clients.choose(&client(0), "tiny".into());
        let busy = clients.begin(&client(1), None, 1);
        assert_eq!((clients.model(&client(0)).as_deref(), clients.model(&client(1))), (Some("tiny"), None));
        for number in 2..MAX_CLIENTS as u32 + 100 {
            clients.choose(&client(number), "m".into());
        }
        assert_eq!(clients.lock().len(), MAX_CLIENTS);
        assert_eq!(clients.model(&client(0)), None, "it has been away for the longest");
        assert_eq!(clients.running(&client(1)).len(), 1, "who waits is not forgotten");
        drop(busy);
    }
}
