//! A job whose worker was killed, and another that has other files under the same names: nothing of it is mixed.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        consumer::{DeliverPolicy, pull::OrderedConfig},
    },
};
use futures::StreamExt;
use sd_worker_rbee::contract::{Capability, CompleteEvent, Event, EventKind, JobId, headers};
use tempfile::TempDir;

use crate::support::worker::{PATIENCE, Pool};

const FLAGS: [&str; 4] = ["--ack-wait", "1s", "--checkpoint-every", "0s"];
/// Steps of a job that is not to end before its worker is killed: more are tried where fewer were too fast.
const STEPS: [u32; 2] = [12, 150];

async fn put(pool: &Pool, id: &str, body: &str) {
    let subject = pool.subjects.jobs(Capability::Generate, "m", &JobId::new(id).unwrap());
    let mut map = HeaderMap::new();
    map.insert(headers::MESSAGE_ID, id);
    map.insert(headers::JOB_ID, id);
    let body = body.to_owned().into();
    jetstream::new(pool.client.clone())
        .publish_with_headers(subject, map, body)
        .await
        .unwrap()
        .await
        .unwrap();
}

/// The first stored event of a job that this is true of.
async fn event(pool: &Pool, id: &str, wanted: impl Fn(&EventKind) -> bool) -> EventKind {
    let read = async {
        let config = OrderedConfig {
            filter_subject: pool.subjects.events(&JobId::new(id).unwrap()),
            deliver_policy: DeliverPolicy::All,
            ..OrderedConfig::default()
        };
        let events = jetstream::new(pool.client.clone()).get_stream(pool.subjects.stream("EVENTS")).await;
        let mut messages = events.unwrap().create_consumer(config).await.unwrap().messages().await.unwrap();
        loop {
            let message = messages.next().await.expect("the stream goes on").unwrap();
            let event: Event = serde_json::from_slice(&message.payload).unwrap();
            if wanted(&event.kind) {
                return event.kind;
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap_or_else(|_| panic!("no such event of {id}"))
}

async fn complete(pool: &Pool, id: &str) -> CompleteEvent {
    match event(pool, id, EventKind::is_terminal).await {
        EventKind::Complete(complete) => complete,
        other => panic!("{other:?}"),
    }
}

/// A copy of a folder.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// The same file with a little of every number changed, as if it had been trained further.
fn train(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[header..].chunks_exact_mut(4).for_each(|number| number[2] ^= 0x20);
    fs::write(file, bytes).unwrap();
}

/// The model with other weights in its UNet.
fn trained() -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("another");
    copy(Path::new("models/tiny-shapes"), &folder);
    train(&folder.join("unet/diffusion_pytorch_model.safetensors"));
    (root, folder)
}

/// Begins a job with the flags of a first worker, kills that after a snapshot, and has it ended with those of a second.
/// The second one's undisturbed picture of the same request, what it told of the job, and its log.
async fn goes_over(
    first: (&str, &[&str]),
    second: (&str, &[&str]),
    more: &str,
) -> (CompleteEvent, CompleteEvent, String) {
    let pool = Pool::new().await;
    for steps in STEPS {
        let body =
            format!(r#"{{"prompt":"a circle","seed":7,"steps":{steps},"width":64,"height":64{more}}}"#);
        let worker = pool.worker("a", first.0, &[&FLAGS[..], first.1].concat()).await;
        let id = format!("killed-at-one-of-{steps}");
        put(&pool, &id, &body).await;
        let (snapshot, result) =
            (pool.job_folder(&id).join("checkpoint"), pool.job_folder(&id).join("result.json"));
        let begun = async {
            while !snapshot.exists() && !result.exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, begun).await.expect("a snapshot");
        worker.kill();
        drop(worker);
        if result.exists() {
            continue;
        }
        let worker = pool.worker("b", second.0, &[&FLAGS[..], second.1].concat()).await;
        let killed = complete(&pool, &id).await;
        put(&pool, "undisturbed", &body).await;
        return (complete(&pool, "undisturbed").await, killed, worker.log());
    }
    panic!("the job ended before its worker was killed, however many steps it had")
}

#[tokio::test]
async fn a_picture_is_begun_anew_by_a_model_of_the_same_name_with_other_weights() {
    let (_root, folder) = trained();
    let another = format!("m={}", folder.display());
    let (undisturbed, killed, log) = goes_over(("m=models/tiny-shapes", &[]), (&another, &[]), "").await;
    assert_eq!(killed.images[0].sha256, undisturbed.images[0].sha256, "{log}");
    assert_eq!(
        killed.warnings,
        ["the job was begun anew: what it was begun with is not the same here: the weights of `unet`"]
    );
    assert!(undisturbed.warnings.is_empty());
    assert!(!log.contains("goes on from a snapshot"), "{log}");
}

#[tokio::test]
async fn a_picture_goes_on_with_the_same_weights_in_another_folder() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("moved");
    copy(Path::new("models/tiny-shapes"), &folder);
    let moved = format!("m={}", folder.display());
    let (undisturbed, killed, log) = goes_over(("m=models/tiny-shapes", &[]), (&moved, &[]), "").await;
    assert!(killed.warnings.is_empty(), "{:?}", killed.warnings);
    assert_eq!(killed.images[0].sha256, undisturbed.images[0].sha256);
    assert!(log.contains("goes on from a snapshot"), "{log}");
}

#[tokio::test]
async fn a_picture_is_begun_anew_with_another_lora_of_the_same_name() {
    let model = format!("m={}", data("text").display());
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&one, &other] {
        fs::copy(data("loras/text/kohya.safetensors"), folder.path().join("ink.safetensors")).unwrap();
    }
    train(&other.path().join("ink.safetensors"));
    let flags = |folder: &TempDir| ["--lora-dir".to_owned(), folder.path().display().to_string()];
    let (one, other) = (flags(&one), flags(&other));
    let (one, other) = (one.each_ref().map(String::as_str), other.each_ref().map(String::as_str));
    let lora = r#","loras":[{"path":"ink"}]"#;
    let (undisturbed, killed, log) = goes_over((&model, &one), (&model, &other), lora).await;
    assert_eq!(killed.images[0].sha256, undisturbed.images[0].sha256, "{log}");
    assert_eq!(
        killed.warnings,
        ["the job was begun anew: what it was begun with is not the same here: the LoRA `ink`"]
    );
    // And with the same file it goes on.
    let (undisturbed, killed, log) = goes_over((&model, &one), (&model, &one), lora).await;
    assert!(
        killed.warnings.is_empty() && log.contains("goes on from a snapshot"),
        "{:?} {log}",
        killed.warnings
    );
    assert_eq!(killed.images[0].sha256, undisturbed.images[0].sha256);
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity").join(name)
}
