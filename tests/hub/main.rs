//! A model of the hub: whole in the cache and checked, or an error that says what to do. The hub is a server in the
//! test; hf-hub is the real one.
#![cfg(feature = "worker")]

mod stub;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sd_worker_rbee::{
    diffusion::{DType, Device, Precision, StableDiffusion},
    models::{Hub, HubError, HubOptions},
};
use tempfile::TempDir;

use stub::{COMMIT, Fault, HubStub, UNET, repo};

const F32: DType = DType::F32;
const STALL: Duration = Duration::from_millis(400);

/// Nothing of the process's environment decides but a token, which the stub does not ask for unless it is given one.
fn options(stub: &HubStub, cache: &TempDir) -> HubOptions {
    HubOptions {
        endpoint: Some(stub.endpoint.clone()),
        cache: Some(cache.path().to_owned()),
        token: Some("hf_of_nobody".into()),
        offline: false,
        stall: STALL,
        pause: Duration::from_millis(20),
    }
}

async fn fetch(options: HubOptions, id: &str) -> Result<PathBuf, HubError> {
    Hub::new(options).unwrap().fetch(&repo(id), Precision::all(F32)).await
}

async fn error(options: HubOptions, id: &str) -> String {
    let error = fetch(options, id).await.unwrap_err().to_string();
    assert!(error.contains(id), "the repository is named: {error}");
    error
}

#[track_caller]
fn assert_has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` in: {text}");
    }
}

fn unet(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join(UNET)).unwrap()
}

fn original() -> Vec<u8> {
    unet(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/parity/text")))
}

#[tokio::test]
async fn a_repository_is_fetched_once_loads_and_brings_nothing_that_is_not_read() {
    let (stub, cache) = (HubStub::start(None).await, TempDir::new().unwrap());
    let folder = fetch(options(&stub, &cache), "org/tiny").await.unwrap();
    assert_eq!(folder, cache.path().join("models--org--tiny/snapshots").join(COMMIT));
    StableDiffusion::load(&folder, &Device::Cpu, F32).unwrap();
    let downloaded = stub.downloaded();
    assert!(downloaded.contains(&UNET.to_owned()) && downloaded.contains(&"model_index.json".to_owned()));
    let foreign =
        |path: &&String| [".bin", ".ckpt", ".md", ".onnx"].iter().any(|ending| path.ends_with(ending));
    assert_eq!(downloaded.iter().find(foreign), None, "{downloaded:?}");

    assert_eq!(fetch(options(&stub, &cache), "org/tiny").await.unwrap(), folder);
    assert_eq!(fetch(options(&stub, &cache), "org/tiny@v1.0").await.unwrap(), folder);
    assert_eq!(stub.downloaded(), Vec::<String>::new());
}

#[tokio::test]
async fn a_connection_that_drops_in_a_file_is_tried_again() {
    let (stub, cache) = (HubStub::start(None).await, TempDir::new().unwrap());
    stub.fail(UNET, &[Fault::Dropped, Fault::Dropped]);
    let folder = fetch(options(&stub, &cache), "org/tiny").await.unwrap();
    assert_eq!(unet(&folder), original());

    let cache = TempDir::new().unwrap();
    stub.fail(UNET, &[Fault::Dropped; 3]);
    assert_has(&error(options(&stub, &cache), "org/tiny").await, &[UNET, "tried 3 times"]);
    assert!(!cache.path().join("models--org--tiny/snapshots").join(COMMIT).join(UNET).exists());
}

#[tokio::test]
async fn a_file_of_another_checksum_is_removed_and_fetched_again_once() {
    let (stub, cache) = (HubStub::start(None).await, TempDir::new().unwrap());
    stub.fail(UNET, &[Fault::Altered]);
    let folder = fetch(options(&stub, &cache), "org/tiny").await.unwrap();
    assert_eq!(unet(&folder), original());

    let cache = TempDir::new().unwrap();
    stub.fail(UNET, &[Fault::Altered, Fault::Altered]);
    let text = error(options(&stub, &cache), "org/tiny").await;
    assert_has(&text, &[UNET, "expected SHA-256 ", "found SHA-256 "]);
    // What is wrong is not left where the next start would find it.
    assert!(!cache.path().join("models--org--tiny/snapshots").join(COMMIT).join(UNET).exists());
    let folder = fetch(options(&stub, &cache), "org/tiny").await.unwrap();
    assert_eq!(unet(&folder), original());
}

#[tokio::test]
async fn an_answer_that_is_an_error_does_not_become_the_file() {
    for status in [403, 500] {
        let (stub, cache) = (HubStub::start(None).await, TempDir::new().unwrap());
        // hf-hub repeats a 500 itself, then saves its body.
        stub.fail(UNET, &[Fault::Status(status); 40]);
        let text = error(options(&stub, &cache), "org/tiny").await;
        let expected = format!("expected {} bytes", original().len());
        assert_has(&text, &[UNET, &expected, "found 17 bytes (`the store says no`)"]);
        assert!(!cache.path().join("models--org--tiny/snapshots").join(COMMIT).join(UNET).exists());

        stub.fail(UNET, &[Fault::Status(status)]);
        let folder = fetch(options(&stub, &cache), "org/tiny").await.unwrap();
        assert_eq!(unet(&folder), original());
    }
}

#[tokio::test]
async fn a_cached_file_of_another_size_is_fetched_again() {
    let (stub, cache) = (HubStub::start(None).await, TempDir::new().unwrap());
    let folder = fetch(options(&stub, &cache), "org/tiny").await.unwrap();
    std::fs::write(folder.join(UNET).canonicalize().unwrap(), "cut short").unwrap();
    stub.downloaded();
    fetch(options(&stub, &cache), "org/tiny").await.unwrap();
    assert_eq!(stub.downloaded(), [UNET]);
    assert_eq!(unet(&folder), original());
}

#[tokio::test]
async fn a_download_that_stalls_is_tried_again_and_does_not_hang() {
    let (stub, cache) = (HubStub::start(None).await, TempDir::new().unwrap());
    stub.fail(UNET, &[Fault::Stalled]);
    let folder = fetch(options(&stub, &cache), "org/tiny").await.unwrap();
    assert_eq!(unet(&folder), original());

    let cache = TempDir::new().unwrap();
    stub.fail(UNET, &[Fault::Stalled; 3]);
    let begun = Instant::now();
    let text = error(options(&stub, &cache), "org/tiny").await;
    assert_has(&text, &[UNET, "no byte came for 400ms", "tried 3 times"]);
    assert!((3 * STALL..60 * STALL).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn what_is_not_on_the_hub_says_so() {
    let (stub, cache) = (HubStub::start(None).await, TempDir::new().unwrap());
    for id in ["org/none", "org/tiny@v9"] {
        assert_has(&error(options(&stub, &cache), id).await, &["404", "no folder of that name"]);
    }
    assert_has(
        &error(options(&stub, &cache), "org/gated").await,
        &["403", "accept the model's terms", "HF_TOKEN"],
    );
}

#[tokio::test]
async fn a_private_repository_needs_its_token() {
    let (stub, cache) = (HubStub::start(Some("hf_secret")).await, TempDir::new().unwrap());
    let text = error(options(&stub, &cache), "org/tiny").await;
    assert_has(&text, &["401", "HF_TOKEN"]);
    assert!(!text.contains("hf_of_nobody"), "no token in a message: {text}");
    let options = HubOptions { token: Some("hf_secret".into()), ..options(&stub, &cache) };
    fetch(options, "org/tiny").await.unwrap();
}

#[tokio::test]
async fn offline_the_cache_is_used_if_it_is_whole() {
    let (stub, cache) = (HubStub::start(None).await, TempDir::new().unwrap());
    let offline = || HubOptions { offline: true, ..options(&stub, &cache) };
    assert_has(&error(offline(), "org/tiny").await, &["HF_HUB_OFFLINE", "nothing of revision main"]);
    let folder = fetch(options(&stub, &cache), "org/tiny").await.unwrap();
    stub.stop();
    assert_eq!(fetch(offline(), "org/tiny").await.unwrap(), folder);
    assert_eq!(fetch(offline(), &format!("org/tiny@{COMMIT}")).await.unwrap(), folder);
    std::fs::remove_file(folder.join(UNET).canonicalize().unwrap()).unwrap();
    assert_has(&error(offline(), "org/tiny").await, &["no safetensors weights in unet/"]);
    std::fs::remove_file(folder.join("vae/config.json")).unwrap();
    assert!(fetch(offline(), "org/tiny").await.is_err());
}

#[tokio::test]
async fn a_hub_that_is_gone_leaves_what_the_cache_has() {
    let (stub, cache) = (HubStub::start(None).await, TempDir::new().unwrap());
    let folder = fetch(options(&stub, &cache), "org/tiny").await.unwrap();
    stub.stop();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(fetch(options(&stub, &cache), "org/tiny").await.unwrap(), folder);
    let empty = TempDir::new().unwrap();
    assert_has(&error(options(&stub, &empty), "org/tiny").await, &["does not answer", &stub.endpoint]);
}
