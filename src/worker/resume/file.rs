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
    engine::Snapshot,
    models::{ModelError, ModelIdentity},
    storage::{Action, Key, StorageError, Store},
};

/// The format and its version; another version is another line.
const HEADER: &[u8] = b"sd-worker-rbee checkpoint 5\n";
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
    /// The model: its files, the arithmetic, the program.
    pub model: ModelIdentity,
    /// The job's LoRAs in its order.
    pub loras: Vec<Lora>,
}

/// A LoRA of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lora {
    /// As the job names it.
    pub name: String,
    /// SHA-256 of the file.
    pub digest: [u8; 32],
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

/// A snapshot that cannot be used here. What it says completes "the job was begun anew:".
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is of another version of the format, or no snapshot.
    #[error("its snapshot does not begin with the line `{}`", HEADER.trim_ascii_end().escape_ascii())]
    Format,
    /// It was changed or cut off.
    #[error("the SHA-256 of its snapshot is not what that says: it is damaged or cut off")]
    Damaged,
    /// It is whole and not what is written here.
    #[error("its snapshot cannot be decoded: {0}")]
    Encoding(#[from] postcard::Error),
    /// More than a snapshot.
    #[error("{0} bytes follow the end of its snapshot")]
    Longer(usize),
    /// Another request, model or arithmetic.
    #[error("what it was begun with is not the same here: {}", .0.join(", "))]
    Foreign(Vec<String>),
    /// The store does not give it.
    #[error("its snapshot could not be read from the store")]
    Store(#[source] Box<StorageError>),
    /// The model's files cannot be read.
    #[error("whether the model is still the same could not be read")]
    Model(#[source] Box<ModelError>),
    /// A picture before it is not there.
    #[error("a picture that it had finished could not be read from the store")]
    Picture(#[source] Box<StorageError>),
    /// It does not say who drew each picture before it.
    #[error("its snapshot has {index} pictures before it and names the attempts of {named}")]
    Pictures {
        /// Pictures before it.
        index: u32,
        /// Attempts that it names.
        named: usize,
    },
    /// Reading ended without a result.
    #[error("the reading of its snapshot was lost")]
    Lost(#[from] tokio::task::JoinError),
}

impl Origin {
    /// Of a job with this fingerprint, without LoRAs.
    pub fn new(fingerprint: &str, model: &ModelIdentity) -> Self {
        Self { fingerprint: fingerprint.to_owned(), model: model.clone(), loras: vec![] }
    }

    fn must_be(&self, expected: &Self) -> Result<(), SnapshotError> {
        let mut differences = vec![];
        if self.fingerprint != expected.fingerprint {
            differences.push("the request".to_owned());
        }
        differences.extend(expected.model.differences(&self.model));
        if self.loras.len() != expected.loras.len() {
            differences.push("the number of LoRAs".to_owned());
        }
        let pairs = expected.loras.iter().zip(&self.loras);
        let others = pairs.filter(|(here, before)| here != before);
        differences.extend(others.map(|(here, _)| format!("the LoRA `{}`", here.name)));
        if differences.is_empty() { Ok(()) } else { Err(SnapshotError::Foreign(differences)) }
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

/// Reads a job's snapshot, if there is one.
///
/// # Errors
/// One that is there and cannot be used, or a store that does not give it: the job begins anew.
pub async fn read(store: &Store, job: &JobId, origin: &Origin) -> Result<Option<Kept>, SnapshotError> {
    let found = store.find(&Key::Checkpoint { job: job.clone() }, MAX_SNAPSHOT).await;
    let Some(bytes) = found.map_err(|error| SnapshotError::Store(error.into()))? else { return Ok(None) };
    let origin = origin.clone();
    tokio::task::spawn_blocking(move || decode(&bytes, &origin)).await?.map(Some)
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
    use crate::{
        diffusion::{DType, Part},
        models::{ModelSource, Progress},
        storage::StoreOptions,
    };

    fn model() -> ModelIdentity {
        let source: ModelSource = "sim://".parse().unwrap();
        let precision = DType::F16.into();
        ModelIdentity::of(&source, &candle_core::Device::Cpu, precision).unwrap()
    }

    fn origin() -> Origin {
        let lora = |name: &str| Lora { name: name.into(), digest: [7; 32] };
        Origin { loras: vec![lora("ink"), lora("oil")], ..Origin::new("f00d", &model()) }
    }

    fn store() -> (Store, JobId) {
        (Store::open(&StoreOptions::new("memory://")).unwrap(), JobId::new("j").unwrap())
    }

    /// Of the second picture, by a scheduler that keeps vectors: NaN with a payload, minus zero, a denormal number.
    fn snapshot() -> Kept {
        let bits = json!([0x7fc0_1234_u32, 0xffa0_0001_u32, 0x8000_0000_u32, 1, 0x3f80_0000]);
        let progress = json!({"Checkpoint": {
            "trajectory": {"done": 3, "total": 20, "latents": bits, "clean": bits},
            "scheduler": "dpmpp_2m",
            "state": {"vectors": {"clean.0": bits, "clean.1": bits}, "counters": {"clean": 2}},
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
        assert_eq!(read(&store, &job, &origin()).await.unwrap(), None);
        let pictures = vec![Progress::Sim { step: 4 }, Progress::Sim { step: 3 }];
        let simulated = Kept::of_the_first(Snapshot { index: 7, pictures });
        for snapshot in [simulated, snapshot()] {
            write(&store, &job, &origin(), snapshot.clone()).await.unwrap();
            assert_eq!(read(&store, &job, &origin()).await.unwrap(), Some(snapshot));
        }
        for _ in 0..2 {
            remove(&store, &job).await;
            assert_eq!(read(&store, &job, &origin()).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_snapshot_of_another_origin_is_not_used_and_what_differs_is_named() {
        let (store, job) = store();
        write(&store, &job, &origin(), snapshot()).await.unwrap();
        let other = |change: fn(&mut Origin)| {
            let mut origin = origin();
            change(&mut origin);
            origin
        };
        let others = [
            (other(|other| other.fingerprint = "beef".into()), "the request"),
            (other(|other| other.model.parts[0] = Part::new("the simulation", "1x1")), "the simulation"),
            (other(|other| other.model.parts.clear()), "the simulation"),
            (
                other(|other| other.model.parts.push(Part::new("the weights of `unet`", ""))),
                "the weights of `unet`",
            ),
            (other(|other| other.model.arithmetic = "cuda 9.0".into()), "the arithmetic (`cpu"),
            (other(|other| other.model.precision = "text=f32".into()), "the precision (`text=f16,"),
            (other(|other| other.model.build = "0.0.0 linux".into()), "the program (`"),
            (other(|other| other.loras[1].digest = [8; 32]), "the LoRA `oil`"),
            (other(|other| drop(other.loras.pop())), "the number of LoRAs"),
        ];
        for (other, name) in &others {
            let reason = read(&store, &job, other).await.unwrap_err().to_string();
            let told = reason.strip_prefix("what it was begun with is not the same here: ").unwrap();
            assert!(told.starts_with(name) && !told.contains("), "), "{name}: {reason}");
        }
        let mut all = origin();
        all.loras[0].digest = [8; 32];
        all.fingerprint = "beef".into();
        let reason = read(&store, &job, &all).await.unwrap_err().to_string();
        assert!(reason.ends_with(": the request, the LoRA `ink`"), "{reason}");
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
        let error = read(&store, &job, &origin).await.unwrap_err();
        assert!(
            matches!(&error, SnapshotError::Store(error) if matches!(**error, StorageError::TooLarge { .. })),
            "{error:?}"
        );
    }

    #[test]
    fn what_is_no_snapshot_is_refused_with_the_reason() {
        let whole = encode(&origin(), &snapshot());
        assert!(decode(&whole, &origin()).is_ok());
        let next = [b"sd-worker-rbee checkpoint 6\n", &whole[HEADER.len()..]].concat();
        for bytes in [&b""[..], b"sd-worker", b"\x89PNG\r\n", &next] {
            assert!(decoded(bytes).contains("`sd-worker-rbee checkpoint 5`"), "{}", decoded(bytes));
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
