//! `jobs/<job>/checkpoint`: a running job's state in the store, from which another worker goes on.
//!
//! A line that names the format, SHA-256 of the rest, and the rest: where it is from, and the engine's [`Snapshot`],
//! in postcard (a number of latents takes up to 5 bytes, in JSON it would take 10). Whoever reads it may be another
//! version on another device: what does not agree to the letter is not used. A snapshot saves time and is never
//! needed: no reading of one fails a job.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    contract::JobId,
    diffusion::Precision,
    engine::Snapshot,
    storage::{Action, Key, StorageError, Store},
};

/// The format and its version; another version is another line.
const HEADER: &[u8] = b"sd-worker-rbee checkpoint 3\n";
/// Bytes of the digest behind the header.
const DIGEST: usize = 32;
/// The most bytes of a snapshot. A picture of the largest size (2048 x 2048) takes about 11 MB with the scheduler
/// that keeps most, and eight are drawn together at most.
const MAX_SNAPSHOT: u64 = 128 << 20;

/// What a snapshot is of. Latents go on bit for bit only with all of it the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// [`Operation::fingerprint`](crate::contract::Operation::fingerprint) of the job.
    pub fingerprint: String,
    /// The model by name.
    pub model: String,
    /// `cpu`, `cuda` or `metal`: kinds of devices round differently.
    pub device_kind: String,
    /// The types of the weights, as [`Precision`] writes them.
    pub precision: String,
    /// The program's version.
    pub version: String,
}

/// A snapshot, and which attempt has drawn each picture before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// What the engine goes on from.
    pub snapshot: Snapshot,
    /// The attempt that drew and stored the picture of each index below the snapshot's.
    pub drawn_by: Vec<u32>,
}

impl Kept {
    /// A snapshot of the first attempt.
    pub fn of_the_first(snapshot: Snapshot) -> Self {
        let drawn_by = vec![1; snapshot.index as usize];
        Self { snapshot, drawn_by }
    }
}

/// A snapshot that cannot be used here.
#[derive(Debug, thiserror::Error)]
enum SnapshotError {
    #[error("it does not begin with the line `{}`", HEADER.trim_ascii_end().escape_ascii())]
    Format,
    #[error("its SHA-256 is not what it says: it is damaged or cut off")]
    Damaged,
    #[error("it cannot be decoded: {0}")]
    Encoding(#[from] postcard::Error),
    #[error("{0} bytes follow its end")]
    Longer(usize),
    #[error("its {field} is `{found}`, here it is `{expected}`")]
    Foreign { field: &'static str, found: String, expected: String },
}

impl Origin {
    /// Of a job with this fingerprint on this version; `device` is `cpu`, `cuda:0` or `metal:0`.
    pub fn new(fingerprint: &str, model: &str, device: &str, precision: Precision) -> Self {
        let device_kind = device.split(':').next().unwrap_or(device);
        Self {
            fingerprint: fingerprint.to_owned(),
            model: model.to_owned(),
            device_kind: device_kind.to_owned(),
            precision: precision.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    fn must_be(&self, expected: &Self) -> Result<(), SnapshotError> {
        let of = |origin: &Self| {
            let Self { fingerprint, model, device_kind, precision, version } = origin.clone();
            [
                ("version", version),
                ("job's fingerprint", fingerprint),
                ("model", model),
                ("kind of device", device_kind),
                ("precision", precision),
            ]
        };
        match of(self).into_iter().zip(of(expected)).find(|(found, expected)| found != expected) {
            None => Ok(()),
            Some(((field, found), (_, expected))) => Err(SnapshotError::Foreign { field, found, expected }),
        }
    }
}

/// Writes a job's snapshot over the one before. Encoding it is kept off the threads that serve messages.
///
/// # Errors
/// The store's; also of a snapshot that is larger than any that is read.
pub async fn write(store: &Store, job: &JobId, origin: &Origin, kept: Kept) -> Result<(), StorageError> {
    let (key, origin) = (Key::Checkpoint { job: job.clone() }, origin.clone());
    let bytes = tokio::task::spawn_blocking(move || encode(&origin, &kept)).await.map_err(|error| {
        let (key, cause) = (key.path(), error.to_string());
        StorageError::Failed { action: Action::Write, key, cause, source: error.into() }
    })?;
    let length = bytes.len() as u64;
    if length > MAX_SNAPSHOT {
        return Err(StorageError::TooLarge { key: key.path(), bytes: length, limit: MAX_SNAPSHOT });
    }
    store.put(&key, Bytes::from(bytes), "application/octet-stream").await
}

/// Reads a job's snapshot. One that is there and cannot be used, or a store that does not give it, is logged and the
/// same as none: the job begins anew.
pub async fn read(store: &Store, job: &JobId, origin: &Origin) -> Option<Kept> {
    let unusable = |reason: String| {
        tracing::warn!(%reason, "the job's snapshot cannot be used, the job begins anew");
    };
    let found = store.find(&Key::Checkpoint { job: job.clone() }, MAX_SNAPSHOT).await;
    let bytes = found.map_err(|error| unusable(error.to_string())).ok()??;
    let origin = origin.clone();
    match tokio::task::spawn_blocking(move || decode(&bytes, &origin)).await {
        Ok(Ok(kept)) => Some(kept),
        Ok(Err(error)) => {
            unusable(error.to_string());
            None
        }
        Err(error) => {
            unusable(error.to_string());
            None
        }
    }
}

/// Removes a job's snapshot, when the job has ended. One that stays does no harm: a failure is logged.
pub async fn remove(store: &Store, job: &JobId) {
    if let Err(error) = store.delete(&Key::Checkpoint { job: job.clone() }).await {
        tracing::warn!(%error, "the job's snapshot could not be removed");
    }
}

fn encode(origin: &Origin, kept: &Kept) -> Vec<u8> {
    let head = [HEADER, &[0; DIGEST]].concat();
    let mut bytes = postcard::to_extend(&(origin, kept), head)
        .expect("sequences have their lengths, and a vector takes all that is written");
    let digest = Sha256::digest(&bytes[HEADER.len() + DIGEST..]);
    bytes[HEADER.len()..HEADER.len() + DIGEST].copy_from_slice(&digest);
    bytes
}

/// Nothing behind the digest is looked at before it was seen to be whole.
fn decode(bytes: &[u8], expected: &Origin) -> Result<Kept, SnapshotError> {
    let rest = bytes.strip_prefix(HEADER).ok_or(SnapshotError::Format)?;
    let (digest, body) = rest.split_first_chunk::<DIGEST>().ok_or(SnapshotError::Damaged)?;
    if Sha256::digest(body)[..] != digest[..] {
        return Err(SnapshotError::Damaged);
    }
    decode_body(body, expected)
}

/// The origin comes first: of another version the rest may be laid out otherwise.
fn decode_body(body: &[u8], expected: &Origin) -> Result<Kept, SnapshotError> {
    let (origin, rest) = postcard::take_from_bytes::<Origin>(body)?;
    origin.must_be(expected)?;
    match postcard::take_from_bytes(rest)? {
        (kept, []) => Ok(kept),
        (_, more) => Err(SnapshotError::Longer(more.len())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{diffusion::DType, models::Progress, storage::StoreOptions};

    fn origin() -> Origin {
        Origin::new("f00d", "sd15", "cuda:1", Precision::all(DType::F16))
    }

    fn store() -> (Store, JobId) {
        (Store::open(&StoreOptions::new("memory://")).unwrap(), JobId::new("j").unwrap())
    }

    /// Of the second picture, by a scheduler that keeps vectors: NaN with a payload, minus zero, a denormal number.
    fn snapshot() -> Kept {
        let bits = json!([0x7fc0_1234_u32, 0xffa0_0001_u32, 0x8000_0000_u32, 1, 0x3f80_0000]);
        let progress = json!({"StableDiffusion": {
            "trajectory": {"done": 3, "total": 20, "latents": bits, "clean": bits},
            "scheduler": "dpmpp_2m",
            "memory": {"vectors": {"clean.0": bits, "clean.1": bits}, "counters": {"clean": 2}},
            "rng": {"words": (0..624_u32).collect::<Vec<_>>(), "next": 5, "cached": (-0.25_f64).to_bits()},
        }});
        let snapshot = Snapshot { index: 1, pictures: vec![serde_json::from_value(progress).unwrap()] };
        Kept { snapshot, drawn_by: vec![2] }
    }

    fn decoded(bytes: &[u8]) -> String {
        decode(bytes, &origin()).unwrap_err().to_string()
    }

    #[tokio::test]
    async fn what_is_written_is_read_back_bit_for_bit_until_it_is_removed() {
        let (store, job) = store();
        assert_eq!(read(&store, &job, &origin()).await, None);
        let pictures = vec![Progress::Sim { step: 4 }, Progress::Sim { step: 3 }];
        let simulated = Kept::of_the_first(Snapshot { index: 7, pictures });
        for snapshot in [simulated, snapshot()] {
            write(&store, &job, &origin(), snapshot.clone()).await.unwrap();
            assert_eq!(read(&store, &job, &origin()).await, Some(snapshot));
        }
        for _ in 0..2 {
            remove(&store, &job).await;
            assert_eq!(read(&store, &job, &origin()).await, None);
        }
    }

    #[tokio::test]
    async fn a_snapshot_of_another_origin_is_not_used() {
        let (store, job) = store();
        write(&store, &job, &origin(), snapshot()).await.unwrap();
        let same_kind = Origin::new("f00d", "sd15", "cuda:0", Precision::all(DType::F16));
        assert_eq!(read(&store, &job, &same_kind).await, Some(snapshot()));
        let mut others = [origin(), origin(), origin(), origin(), origin()];
        others[0].fingerprint = "beef".into();
        others[1].model = "sdxl".into();
        others[2].device_kind = "cpu".into();
        others[3].precision = "text=f32,unet=f16,vae=f16".into();
        others[4].version = "0.0.0".into();
        let names = ["fingerprint", "model", "kind of device", "precision", "version"];
        let bytes = encode(&origin(), &snapshot());
        for (other, name) in others.iter().zip(names) {
            assert_eq!(read(&store, &job, other).await, None, "{name}");
            let reason = decode(&bytes, other).unwrap_err().to_string();
            assert!(reason.contains(name), "{name}: {reason}");
        }
    }

    #[tokio::test]
    async fn a_snapshot_that_is_too_large_is_neither_written_nor_read() {
        let (store, job) = store();
        let mut origin = origin();
        origin.fingerprint = "x".repeat(MAX_SNAPSHOT as usize);
        let error = write(&store, &job, &origin, snapshot()).await.unwrap_err();
        assert!(matches!(error, StorageError::TooLarge { limit: MAX_SNAPSHOT, .. }), "{error}");
        let key = Key::Checkpoint { job: job.clone() };
        assert_eq!(store.find(&key, MAX_SNAPSHOT).await.unwrap(), None);
        store.put(&key, Bytes::from(encode(&origin, &snapshot())), "application/octet-stream").await.unwrap();
        assert_eq!(read(&store, &job, &origin).await, None);
    }

    #[test]
    fn what_is_no_snapshot_is_refused_with_the_reason() {
        let whole = encode(&origin(), &snapshot());
        assert!(decode(&whole, &origin()).is_ok());
        let next = [b"sd-worker-rbee checkpoint 4\n", &whole[HEADER.len()..]].concat();
        for bytes in [&b""[..], b"sd-worker", b"\x89PNG\r\n", &next] {
            assert!(decoded(bytes).contains("`sd-worker-rbee checkpoint 3`"), "{}", decoded(bytes));
        }
        for cut in [HEADER.len(), HEADER.len() + DIGEST, whole.len() - 1] {
            assert!(decoded(&whole[..cut]).contains("damaged or cut off"));
        }
        let sealed = |body: &[u8]| [HEADER, &Sha256::digest(body)[..], body].concat();
        let body = &whole[HEADER.len() + DIGEST..];
        assert!(decoded(&sealed(b"")).contains("cannot be decoded"));
        assert!(decoded(&sealed(&body[..body.len() - 1])).contains("cannot be decoded"));
        assert!(decoded(&sealed(&[body, b"more"].concat())).contains("4 bytes follow"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_none_but_the_written_ones_are_taken(
            random in proptest::collection::vec(any::<u8>(), 0..400),
            place in any::<prop::sample::Index>(),
            changed in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let whole = encode(&origin(), &snapshot());
            prop_assert!(decode(&random, &origin()).is_err());
            let mut mutated = whole.clone();
            let place = place.index(whole.len());
            mutated[place] = changed;
            let read = decode(&mutated, &origin());
            prop_assert_eq!(read.ok(), (mutated == whole).then(snapshot));
            prop_assert!(decode(&whole[..cut.index(whole.len())], &origin()).is_err());
            // Whoever can write to the store can also seal what was changed: then it is decoded, and all that holds is
            // that it does not panic.
            let body = &whole[HEADER.len() + DIGEST..];
            let place = place % body.len();
            let mut mutated = body.to_vec();
            mutated[place] = changed;
            for body in [&random[..], &mutated, &[&body[..place], &random].concat()] {
                drop(decode_body(body, &origin()));
            }
        }
    }
}
