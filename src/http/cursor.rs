//! Where a client is in the events of many jobs, as one text: it comes back with it, and nothing is told twice.
//!
//! A job is in it by six bytes of a hash of its id: with so many jobs as one stream may have, the text stays short enough for
//! the `id:` of every event.

use std::{collections::BTreeMap, fmt};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

use super::MAX_WATCHED;
use crate::contract::{Event, EventKind, JobId};

/// The form of the text. One of a later version is refused, and the client begins anew.
const VERSION: u8 = 1;
/// The most bytes of a job: flag, name, number.
const LONGEST: usize = 1 + 6 + 10;

/// What a job is called here.
type Name = [u8; 6];

/// Where a client is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor {
    seen: BTreeMap<Name, Seen>,
}

/// What a client has of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Events up to this number.
    pub seq: u64,
    /// The last of them ended the job.
    pub ended: bool,
}

impl Cursor {
    /// Reads the text; `None`: it is none of ours.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > (1 + MAX_WATCHED * LONGEST) * 4 / 3 + 4 {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (version, mut rest) = bytes.split_first()?;
        let mut seen = BTreeMap::new();
        while *version == VERSION && !rest.is_empty() {
            let (flag, name);
            (flag, rest) = rest.split_first()?;
            (name, rest) = rest.split_first_chunk::<6>()?;
            let seq;
            (seq, rest) = number(rest)?;
            seen.insert(*name, Seen { seq, ended: *flag == 1 });
        }
        (*version == VERSION && seen.len() <= MAX_WATCHED).then_some(Self { seen })
    }

    /// What the client has of a job.
    pub fn of(&self, job: &JobId) -> Option<Seen> {
        self.seen.get(&name(job)).copied()
    }

    /// Without what is of no job of these.
    pub fn retain(&mut self, jobs: &[JobId]) {
        let names: Vec<_> = jobs.iter().map(name).collect();
        self.seen.retain(|name, _| names.contains(name));
    }

    /// The client is told an event. A preview is not counted: it is not kept, and may overtake what is.
    pub fn told(&mut self, event: &Event) {
        if !matches!(event.kind, EventKind::Preview { .. }) {
            let seen = Seen { seq: event.seq, ended: event.kind.is_terminal() };
            self.seen.insert(name(&event.job_id), seen);
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![VERSION];
        for (name, Seen { seq, ended }) in &self.seen {
            bytes.push(u8::from(*ended));
            bytes.extend_from_slice(name);
            push_number(&mut bytes, *seq);
        }
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

fn name(job: &JobId) -> Name {
    let hash = Sha256::digest(job.as_str());
    let mut name = Name::default();
    name.copy_from_slice(&hash[..6]);
    name
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn push_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// The number that bytes begin with, and the rest.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        let shift = 7 * index as u32;
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some((number, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{OutputFormat, WorkerId};

    fn job(number: usize) -> JobId {
        JobId::new(format!("job-{number}")).unwrap()
    }

    fn event(job_id: JobId, seq: u64, kind: EventKind) -> Event {
        Event { job_id, worker_id: WorkerId::new("w").unwrap(), attempt: 1, seq, kind }
    }

    fn progress() -> EventKind {
        EventKind::Progress { step: 1, total: 2, percent: 50.0, eta_ms: 0 }
    }

    #[test]
    fn a_client_comes_back_to_where_it_was_in_every_job() {
        let mut cursor = Cursor::default();
        assert_eq!(Cursor::parse(&cursor.to_string()), Some(cursor.clone()));
        for (number, seq) in [(0, 0), (1, 127), (2, 128), (3, u64::MAX)] {
            cursor.told(&event(job(number), seq, progress()));
        }
        cursor.told(&event(job(1), 130, EventKind::Cancelled { step: 1 }));
        let back = Cursor::parse(&cursor.to_string()).unwrap();
        assert_eq!(back, cursor);
        let ended = Seen { seq: 130, ended: true };
        assert_eq!((back.of(&job(1)), back.of(&job(9))), (Some(ended), None));
        assert_eq!(back.of(&job(3)), Some(Seen { seq: u64::MAX, ended: false }));
        cursor.retain(&[job(2)]);
        assert_eq!((cursor.of(&job(1)), cursor.of(&job(2)).unwrap().seq), (None, 128));
    }

    #[test]
    fn a_preview_does_not_count() {
        let mut cursor = Cursor::default();
        let (image, format) = (String::new(), OutputFormat::Jpeg);
        let preview = EventKind::Preview { step: 1, total: 2, percent: 50.0, image, format };
        cursor.told(&event(job(0), 7, preview));
        assert_eq!(cursor.of(&job(0)), None);
    }

    #[test]
    fn it_is_short_with_as_many_jobs_as_may_be() {
        let mut cursor = Cursor::default();
        for number in 0..MAX_WATCHED {
            cursor.told(&event(job(number), 200, progress()));
        }
        assert!(cursor.to_string().len() < 800, "{}", cursor.to_string().len());
        assert!(Cursor::parse(&cursor.to_string()).is_some());
        cursor.told(&event(job(MAX_WATCHED), 1, progress()));
        assert_eq!(Cursor::parse(&cursor.to_string()), None, "one more than may be");
    }

    #[test]
    fn rubbish_is_none() {
        let whole = {
            let mut cursor = Cursor::default();
            cursor.told(&event(job(0), 300, progress()));
            cursor.to_string()
        };
        let endless = URL_SAFE_NO_PAD.encode([&[VERSION, 0, 1, 2, 3, 4, 5, 6][..], &[0xff; 12]].concat());
        let later = URL_SAFE_NO_PAD.encode([VERSION + 1]);
        let long = "A".repeat(1 << 20);
        for bad in ["", "17", "!", "AA==", &whole[..whole.len() - 2], &endless, &later, &long] {
            assert_eq!(Cursor::parse(bad), None, "{bad:.40}");
        }
    }
}
