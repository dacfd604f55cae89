//! A durable job's snapshots on this worker: the newest is written, one at a time, off the engine's path; and what of a
//! job is there already when another worker's snapshot is gone on from.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::{sync::OnceCell, task::JoinHandle};

use super::file::{self as snapshot, Kept, Lora, Origin, SnapshotError};
use crate::{
    contract::{ImageResult, Job, JobId, hex},
    diffusion::ImageSpec,
    engine::Snapshot,
    http::MAX_IMAGE_BYTES,
    models::{LoadedIdentity, LoraFolder, ModelInfo},
    storage::{Key, StorageError, Store},
    worker::shared::{Context, Folders, Happened, Metrics},
};

/// A write that takes longer was probably tried again: the store may still make what was tried first.
const IN_ONE_GO: Duration = Duration::from_secs(1);
/// How long a write may be on its way to the store after it was given up.
const LATE: Duration = Duration::from_secs(30);

/// The snapshots of one job.
pub struct Snapshots {
    store: Store,
    metrics: Arc<Metrics>,
    job: JobId,
    /// What they are of; the model as it was loaded when the job came.
    origin: Origin,
    model: LoadedIdentity,
    /// The job's LoRAs and embeddings.
    files: Vec<NamedFile>,
    /// Whether the engine has read the files that the origin names; not known before the first snapshot.
    files_are_same: Arc<OnceCell<bool>>,
    /// The time between two; none for a job that would not come again.
    every: Option<Duration>,
    writing: Option<JoinHandle<()>>,
    waiting: Option<Kept>,
    /// Which attempt drew the pictures that were there when the job was gone on with.
    drawn_by: Vec<u32>,
    /// Whether one was written here.
    written: bool,
    /// Whether a write failed or was slow, so that the store may make one that nobody waits for.
    may_come_late: Arc<AtomicBool>,
}

/// What a job goes on from.
pub struct Resumed {
    pub snapshot: Snapshot,
    /// The pictures that are finished and stored.
    pub images: Vec<ImageResult>,
}

impl Snapshots {
    /// Of this job with this model; `is_durable`: it comes again when its worker is gone.
    pub fn new(context: &Context, job: &Job, model: &ModelInfo, is_durable: bool) -> Self {
        Self {
            store: context.store.clone(),
            metrics: context.metrics.clone(),
            job: job.id.clone(),
            origin: Origin::new(job.fingerprint.written(), &model.identity.loaded()),
            model: model.identity.clone(),
            files: Vec::new(),
            files_are_same: Arc::default(),
            every: is_durable.then_some(context.identity.snapshot_every),
            writing: None,
            waiting: None,
            drawn_by: vec![],
            written: false,
            may_come_late: Arc::default(),
        }
    }

    /// Binds them to the files of the job's LoRAs and embeddings. Without such nothing is read.
    pub async fn identify_files(&mut self, folders: Folders<'_>, spec: &ImageSpec) {
        let files = NamedFile::all(folders, spec);
        if self.every.is_none() || files.is_empty() {
            return;
        }
        match identities(&files).await {
            Some(loras) => {
                self.origin.loras = loras;
                self.files = files;
            }
            // Which files a snapshot would be of is not known: the engine will say what is wrong with them.
            None => self.every = None,
        }
    }

    /// How often the engine is to give one.
    pub fn every(&self) -> Option<Duration> {
        self.every
    }

    /// Has one written, now or after the one that is being written; of those that wait the newest is kept.
    /// The pictures before it were drawn by this attempt, unless they were there.
    pub fn put(&mut self, snapshot: Snapshot, attempt: u32) {
        self.written = true;
        let mut drawn_by = self.drawn_by.clone();
        drawn_by.resize(snapshot.index as usize, attempt);
        self.waiting = Some(Kept { snapshot, drawn_by });
        if self.writing.as_ref().is_none_or(JoinHandle::is_finished) {
            self.writing = self.waiting.take().map(|snapshot| self.write(snapshot));
        }
    }

    fn write(&self, snapshot: Kept) -> JoinHandle<()> {
        // The model is held by the job: what is loaded is what draws it.
        let origin = Origin { model: (*self.model.loaded()).clone(), ..self.origin.clone() };
        let (store, job, metrics) = (self.store.clone(), self.job.clone(), self.metrics.clone());
        let (files, files_are_same) = (self.files.clone(), self.files_are_same.clone());
        let may_come_late = self.may_come_late.clone();
        tokio::spawn(async move {
            if !files.is_empty() {
                // The engine reads the files after they were hashed. That they still are what they were when it gives
                // its first snapshot shows that it read those.
                let is_same = async || identities(&files).await.as_ref() == Some(&origin.loras);
                if !*files_are_same.get_or_init(is_same).await {
                    tracing::warn!("a LoRA was replaced while it was loaded; no snapshot of the job is kept");
                    return;
                }
            }
            let begun = Instant::now();
            let written = snapshot::write(&store, &job, &origin, snapshot).await;
            if written.is_err() || begun.elapsed() > IN_ONE_GO {
                may_come_late.store(true, Ordering::Relaxed);
            }
            match written {
                Ok(()) => metrics.note(Happened::Snapshot),
                Err(error) => tracing::warn!(%error, "a snapshot could not be written"),
            }
        })
    }

    /// Returns when the last one is written.
    pub async fn finish(&mut self) {
        while let Some(writing) = self.writing.take() {
            if let Err(error) = writing.await {
                tracing::error!(%error, "the writing of a snapshot was lost");
            }
            self.writing = self.waiting.take().map(|snapshot| self.write(snapshot));
        }
    }

    /// Begins no more; returns when the one that is being written is there. Given up in between, it might come to the
    /// store after it was removed.
    pub async fn stop(&mut self) {
        self.waiting = None;
        self.finish().await;
    }

    /// Removes what is there, if one was written here, or may have been elsewhere; and once more where the store may make a
    /// write of before after that. Should the job be sent again in that time, its next worker begins it anew at worst.
    pub async fn remove(&mut self, elsewhere: bool) {
        self.stop().await;
        if self.written || elsewhere {
            snapshot::remove(&self.store, &self.job).await;
        }
        if elsewhere || self.may_come_late.load(Ordering::Relaxed) {
            let (store, job) = (self.store.clone(), self.job.clone());
            tokio::spawn(async move {
                tokio::time::sleep(LATE).await;
                snapshot::remove(&store, &job).await;
            });
        }
    }

    /// The snapshot that an earlier worker left, with the pictures that it had finished. Where one is there that cannot
    /// be used here, the job begins anew, and `warnings` say why.
    pub async fn resume(
        &mut self,
        job: &Job,
        spec: &ImageSpec,
        warnings: &mut Vec<String>,
    ) -> Option<Resumed> {
        self.find(job, spec).await.unwrap_or_else(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(reason = %error, cause, "the job's snapshot cannot be used, the job begins anew");
            warnings.push(format!("the job was begun anew: {error}"));
            None
        })
    }

    async fn find(&mut self, job: &Job, spec: &ImageSpec) -> Result<Option<Resumed>, SnapshotError> {
        let found = snapshot::read(&self.store, &self.job, &self.origin).await?;
        let Some(Kept { snapshot, drawn_by }) = found else { return Ok(None) };
        self.must_be_loaded_from_its_files().await?;
        if drawn_by.len() != snapshot.index as usize {
            return Err(SnapshotError::Pictures { index: snapshot.index, named: drawn_by.len() });
        }
        let mut images = vec![];
        for (index, &attempt) in (0..).zip(&drawn_by) {
            let image = stored_picture(&self.store, job, spec, index, attempt).await;
            images.push(image.map_err(|error| SnapshotError::Picture(error.into()))?);
        }
        self.drawn_by = drawn_by;
        Ok(Some(Resumed { snapshot, images }))
    }

    /// A model that is not in memory now will be loaded from files that may be others by now.
    async fn must_be_loaded_from_its_files(&self) -> Result<(), SnapshotError> {
        let model = self.model.clone();
        let files = tokio::task::spawn_blocking(move || model.of_files()).await?;
        let files = files.map_err(|error| SnapshotError::Model(error.into()))?;
        match files.differences(&self.origin.model) {
            none if none.is_empty() => Ok(()),
            differences => Err(SnapshotError::Foreign(differences)),
        }
    }
}

/// A file that a job is drawn with, and the folder that it is in.
#[derive(Clone)]
struct NamedFile {
    folder: LoraFolder,
    name: String,
    file: PathBuf,
}

impl NamedFile {
    /// Those of a job: its LoRAs in its order, then its embeddings.
    fn all(folders: Folders<'_>, spec: &ImageSpec) -> Vec<Self> {
        let loras = spec.loras.iter().map(|lora| (folders.loras, lora.name.clone(), &lora.file));
        let embedding = |name: &str| format!("embedding:{name}");
        let embeddings =
            spec.embeddings.iter().map(|word| (folders.embeddings, embedding(&word.name), &word.file));
        loras
            .chain(embeddings)
            .filter_map(|(folder, name, file)| {
                Some(Self { folder: folder?.clone(), name, file: file.clone() })
            })
            .collect()
    }
}

/// SHA-256 of each file; none where one cannot be read.
async fn identities(files: &[NamedFile]) -> Option<Vec<Lora>> {
    let files = files.to_vec();
    let digests = tokio::task::spawn_blocking(move || {
        let identity = |NamedFile { folder, name, file }: &NamedFile| {
            Ok(Lora { name: name.clone(), digest: folder.digest(file)? })
        };
        files.iter().map(identity).collect::<std::io::Result<Vec<Lora>>>()
    });
    let error = match digests.await {
        Ok(Ok(loras)) => return Some(loras),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::warn!(error, "a LoRA cannot be read; the job has no snapshots");
    None
}

/// What the complete event says of a picture that was stored by another worker.
async fn stored_picture(
    store: &Store,
    job: &Job,
    spec: &ImageSpec,
    index: u32,
    attempt: u32,
) -> Result<ImageResult, StorageError> {
    let key = Key::Image { job: job.id.clone(), index, attempt, format: job.format };
    let bytes = store.get(&key, MAX_IMAGE_BYTES).await?;
    let (width, height) = spec.source.size();
    let (size, sha256) = (bytes.len() as u64, sha256(bytes).await);
    Ok(ImageResult {
        key: key.path(),
        url: store.url(&key).await?,
        format: job.format,
        width,
        height,
        bytes: size,
        sha256,
        seed: job.seed.wrapping_add(u64::from(index)),
    })
}

/// Of up to [`MAX_IMAGE_BYTES`], which takes a while.
async fn sha256(bytes: Bytes) -> String {
    let digest = |bytes: &Bytes| hex(&Sha256::digest(bytes));
    let there = bytes.clone();
    // Not done there, the runtime is ending.
    tokio::task::spawn_blocking(move || digest(&there)).await.unwrap_or_else(|_| digest(&bytes))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::{
        diffusion::DType,
        models::{ModelSource, Progress},
        storage::StoreOptions,
    };

    fn snapshots(store: &Store) -> Snapshots {
        let source: ModelSource = "sim://".parse().unwrap();
        let model = LoadedIdentity::new(&source, &candle_core::Device::Cpu, DType::F16.into()).unwrap();
        Snapshots {
            store: store.clone(),
            metrics: Arc::new(Metrics::new(std::iter::empty(), &[])),
            job: JobId::new("j").unwrap(),
            origin: Origin::new("f00d", &model.loaded()),
            model,
            files: vec![],
            files_are_same: Arc::default(),
            every: Some(LATE),
            writing: None,
            waiting: None,
            drawn_by: vec![],
            written: false,
            may_come_late: Arc::default(),
        }
    }

    async fn there(store: &Store) -> bool {
        let key = Key::Checkpoint { job: JobId::new("j").unwrap() };
        store.find(&key, 1 << 20).await.unwrap().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_comes_after_the_end_of_its_job_does_not_stay() {
        let folder = TempDir::new().unwrap();
        let store = Store::open(&StoreOptions::new(folder.path().to_str().unwrap())).unwrap();
        let mut snapshots = snapshots(&store);
        // A folder in the place of the file: it cannot be written.
        let place = folder.path().join("jobs/j/checkpoint");
        std::fs::create_dir_all(place.join("in/the/way")).unwrap();
        snapshots.put(Snapshot { index: 0, pictures: vec![Progress::Sim { step: 4 }] }, 1);
        snapshots.stop().await;
        std::fs::remove_dir_all(&place).unwrap();
        snapshots.remove(false).await;
        std::fs::write(&place, "late").unwrap();
        assert!(there(&store).await);
        tokio::time::sleep(LATE * 2).await;
        assert!(!there(&store).await);
    }
}
