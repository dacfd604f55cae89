//! Doors of other APIs: their requests become an [`Operation`](crate::contract::Operation), which goes the one way that
//! every job goes, and its pictures go back in the form that their clients read. What all doors share is here; each door
//! has a folder.
//!
//! | file | what lives there |
//! |---|---|
//! | `call` | a job that a client waits for: submitted, followed to its end, cancelled when its client leaves |
//! | `leaving` | what becomes of a job whose client has left |
//! | `key` | `Idempotency-Key` as the job's id |
//! | `fields` | the fields of a request, taken one by one; those that are left are named in a header |
//! | `form` | forms of several parts, read within limits |
//! | `pictures` | uploads resized and turned into masks, on threads where they hold up nobody |
//! | `written` | pictures in base64, written while they are read |
//! | `schemas` | fields of jobs, as a door's document says them |
//! | `refusal` | an error in the form of the door that it is said at |
//! | `openai/` | OpenAI Images and the list of models |
//! | `a1111/` | AUTOMATIC1111's API |
//!
//! Rules of all doors: a client that goes takes its job with it, unless it gave an id by which it can come back; a wait has
//! an end; calls that wait are counted; bodies are never logged, as they carry passwords of other programs; a field that is
//! not known is left out, as the programs of other APIs learn new ones every month.

mod a1111;
mod call;
mod fields;
mod form;
mod key;
mod leaving;
mod openai;
mod pictures;
mod refusal;
mod schemas;
mod written;

use std::{sync::Arc, time::SystemTime};

use tokio::sync::Semaphore;

use self::pictures::Workbench;
use super::Queen;
use crate::http::{Pictures, RouteLimits};

pub(super) use a1111::{A1111, endpoints as a1111_endpoints, only_looks};
pub(super) use openai::endpoints as openai_endpoints;
pub(super) use refusal::speak;

/// What every door has. Cheap to clone.
#[derive(Clone)]
pub(super) struct Foreign {
    queen: Queen,
    /// Bytes of a body.
    max_body: usize,
    /// Pictures on their way to clients, those of /v1/jobs counted.
    pictures: Pictures,
    /// Calls that may wait.
    places: Arc<Semaphore>,
    workbench: Workbench,
    /// Seconds since 1970.
    started: u64,
}

impl Foreign {
    /// The doors of a queen.
    pub fn new(queen: Queen, limits: &RouteLimits) -> Self {
        let places = Arc::new(Semaphore::new(queen.shared.options.max_waiting));
        let RouteLimits { max_body, pictures } = limits.clone();
        Self { queen, max_body, pictures, places, workbench: Workbench::new(), started: now() }
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
