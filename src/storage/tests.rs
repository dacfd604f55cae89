//! The store in a folder and in memory. Over S3: `tests/storage_s3.rs`.

use super::*;
use crate::contract::{ErrorCode, Event, EventKind, JobId, OutputFormat, WorkerId};

const MIB: u64 = 1 << 20;

fn image(job: &str) -> Key {
    Key::Image { job: JobId::new(job).unwrap(), index: 0, attempt: 1, format: OutputFormat::Png }
}

fn folder() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("made on the way/store");
    let store = Store::open(&StoreOptions::new(inner.to_str().unwrap())).unwrap();
    (folder, store)
}

#[tokio::test]
async fn folder_and_memory_keep_what_they_are_given() {
    let (_folder, in_folder) = folder();
    for store in [in_folder, Store::open(&StoreOptions::new("memory://")).unwrap()] {
        store.check().await.unwrap();
        assert_eq!(store.find(&image("j"), MIB).await.unwrap(), None);
        for text in ["first", "second"] {
            store.put(&image("j"), Bytes::from(text), "image/png").await.unwrap();
            assert_eq!(store.get(&image("j"), MIB).await.unwrap(), text);
        }
        let error = store.get(&image("j"), 3).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::PayloadTooLarge, "{error}");
        assert_eq!(store.clone().get(&image("j"), MIB).await.unwrap(), "second");
    }
}

#[tokio::test]
async fn what_is_deleted_is_gone_and_what_is_not_there_may_be_deleted() {
    let (_folder, in_folder) = folder();
    for store in [in_folder, Store::open(&StoreOptions::new("memory://")).unwrap()] {
        let (gone, stays) = (
            Key::Checkpoint { job: JobId::new("j").unwrap() },
            Key::Cancelled { job: JobId::new("j").unwrap() },
        );
        for key in [&gone, &stays] {
            store.put(key, Bytes::from_static(b"x"), "application/octet-stream").await.unwrap();
        }
        for _ in 0..2 {
            store.delete(&gone).await.unwrap();
            assert_eq!(store.find(&gone, MIB).await.unwrap(), None);
        }
        assert_eq!(store.get(&stays, MIB).await.unwrap(), "x");
        store.delete(&Key::Checkpoint { job: JobId::new("never-there").unwrap() }).await.unwrap();
    }
}

#[tokio::test]
async fn what_cannot_be_deleted_is_said() {
    let (folder, store) = folder();
    let key = Key::Checkpoint { job: JobId::new("j").unwrap() };
    let path = folder.path().join("made on the way/store").join(key.path());
    std::fs::create_dir_all(path.join("a folder where the object would be")).unwrap();
    let error = store.delete(&key).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Storage);
    assert!(error.to_string().starts_with("deleting object `jobs/j/checkpoint`: "), "{error}");
}

#[tokio::test]
async fn a_url_of_a_folder_names_the_file() {
    let (_folder, store) = folder();
    store.put(&image("j"), Bytes::from_static(b"x"), "image/png").await.unwrap();
    let url: Url = store.url(&image("j")).await.unwrap().parse().unwrap();
    assert!(url.as_str().ends_with("/made%20on%20the%20way/store/jobs/j/0.png"), "{url}");
    assert_eq!(std::fs::read(url.to_file_path().unwrap()).unwrap(), b"x");

    let again = url.as_str().strip_suffix("/jobs/j/0.png").unwrap();
    let store = Store::open(&StoreOptions::new(again)).unwrap();
    assert_eq!(store.get(&image("j"), MIB).await.unwrap(), "x", "a file:// URL is that folder");
}

#[tokio::test]
async fn readers_of_a_folder_see_the_old_object_or_the_new_one() {
    let (_folder, store) = folder();
    let sides = [Bytes::from(vec![1; 1 << 20]), Bytes::from(vec![2; 1 << 20])];
    store.put(&image("j"), sides[0].clone(), "image/png").await.unwrap();
    let writer = tokio::spawn({
        let (store, sides) = (store.clone(), sides.clone());
        async move {
            for round in 0..20 {
                store.put(&image("j"), sides[round % 2].clone(), "image/png").await.unwrap();
            }
        }
    });
    while !writer.is_finished() {
        let read = store.get(&image("j"), MIB).await.unwrap();
        assert!(sides.contains(&read), "a mixture of {} bytes", read.len());
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn a_result_is_read_back_and_what_is_none_is_said() {
    let store = Store::open(&StoreOptions::new("memory://")).unwrap();
    let job = JobId::new("j").unwrap();
    assert_eq!(store.find_result(&job).await.unwrap(), None);
    let event = Event {
        job_id: job.clone(),
        worker_id: WorkerId::new("w").unwrap(),
        attempt: 1,
        seq: 4,
        kind: EventKind::Cancelled { step: 0 },
    };
    let result = StoredResult { fingerprint: "f".into(), owner: None, event };
    store.put_result(&job, &result).await.unwrap();
    assert_eq!(store.find_result(&job).await.unwrap(), Some(result));
    store
        .put(&Key::Result { job: job.clone() }, Bytes::from_static(b"{}"), "application/json")
        .await
        .unwrap();
    let error = store.find_result(&job).await.unwrap_err().to_string();
    assert!(error.starts_with("object `jobs/j/result.json` cannot be read"), "{error}");
}

#[test]
fn a_url_that_names_no_store_is_refused_without_repeating_a_password() {
    for (url, part) in [
        ("", "empty"),
        ("ftp://host/x", "`ftp` stores are not known"),
        ("s3://", "bucket"),
        ("s3://key:hunter2@bucket", "credentials do not belong in a URL"),
        ("s3://bucket?region=x", "query"),
        ("file://host/share", "absolute"),
    ] {
        let error = Store::open_with(&StoreOptions::new(url), []).unwrap_err().to_string();
        assert!(error.contains(part), "{url}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let mut options = StoreOptions::new("s3://bucket");
    options.presign_ttl = Duration::from_secs(8 * 24 * 3600);
    assert!(Store::open_with(&options, []).unwrap_err().to_string().contains("7 days"));
}

proptest::proptest! {
    #[test]
    fn no_key_that_is_allowed_leaves_the_prefix(text in r"(inputs|jobs|\.\.|)(/([a-z0-9.%~\\]{0,4}|\.\.|%2e%2e|0\.png)){0,4}") {
        let store = Store::open_with(&StoreOptions::new("s3://bucket/a/prefix"), []).unwrap();
        if let Ok(key) = Key::parse_reference(&text) {
            proptest::prop_assert_eq!(store.path(&key).to_string(), format!("a/prefix/{text}"));
        }
    }
}

#[test]
fn a_prefix_that_would_leave_the_bucket_stays_in_it() {
    let job = JobId::new("j").unwrap();
    for (url, path) in [
        ("s3://bucket", "jobs/j/result.json"),
        ("s3://bucket/a/../b/", "b/jobs/j/result.json"),
        ("s3://bucket/../../b", "b/jobs/j/result.json"),
        ("s3://bucket/%2e%2e/b", "b/jobs/j/result.json"),
    ] {
        let store = Store::open_with(&StoreOptions::new(url), []).unwrap();
        assert_eq!(store.path(&Key::Result { job: job.clone() }).as_ref(), path, "{url}");
    }
}

#[tokio::test]
async fn a_link_out_of_the_folder_is_not_read() {
    let (folder, store) = folder();
    let root = folder.path().join("made on the way/store");
    let outside = folder.path().join("outside");
    std::fs::write(&outside, "secret").unwrap();
    std::fs::create_dir_all(root.join("inputs/deep")).unwrap();
    std::fs::write(root.join("inputs/deep/own"), "own").unwrap();
    for (target, link) in [
        (outside.as_path(), "inputs/file"),
        (folder.path(), "inputs/folder"),
        (&root.join("inputs/deep"), "inputs/inside"),
    ] {
        std::os::unix::fs::symlink(target, root.join(link)).unwrap();
    }
    for link in ["inputs/file", "inputs/folder/outside"] {
        let error = store.get(&Key::parse_reference(link).unwrap(), MIB).await.unwrap_err();
        assert!(matches!(error, StorageError::LeadsOut { .. }), "{error}");
        assert_eq!(error.code(), ErrorCode::InvalidRequest);
    }
    let inside = Key::parse_reference("inputs/inside/own").unwrap();
    assert_eq!(store.get(&inside, MIB).await.unwrap(), "own");
    let missing = store.get(&Key::parse_reference("inputs/none").unwrap(), MIB).await.unwrap_err();
    assert!(matches!(missing, StorageError::NotFound { .. }), "{missing}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let below = file.path().join("store");
    let error = Store::open(&StoreOptions::new(below.to_str().unwrap())).unwrap_err();
    assert!(matches!(&error, StorageError::Folder { path, .. } if *path == below), "{error}");
}

#[test]
fn what_is_debugged_holds_no_secret() {
    let secret = ("AWS_SECRET_ACCESS_KEY".to_owned(), "hunter2".to_owned());
    let key = ("AWS_ACCESS_KEY_ID".to_owned(), "k".to_owned());
    let store = Store::open_with(&StoreOptions::new("s3://bucket/prefix"), [key, secret]).unwrap();
    assert_eq!(format!("{store:?}"), r#"Store("s3://bucket/prefix")"#);
    let mut options = StoreOptions::new("s3://key:hunter2@bucket");
    options.public_url = Some("https://:hunter2@host".into());
    assert!(!format!("{options:?}").contains("hunter2"), "{options:?}");
    options.url = "s3://bucket".into();
    let error = Store::open_with(&options, []).unwrap_err().to_string();
    assert!(error.contains("--store-public-url") && !error.contains("hunter2"), "{error}");
}

#[test]
fn what_was_not_meant_to_be_a_folder_is_made_none() {
    for (url, said) in [
        ("~/store", "`~`"),
        ("s3:pool/prefix", "`s3:` is not followed by two slashes"),
        ("s3:/pool", "`s3:`"),
        ("file:/tmp/store", "`file:`"),
        ("https://bucket.s3.amazonaws.com", "s3://bucket/prefix"),
        ("http://127.0.0.1:9000/pool", "AWS_ENDPOINT_URL"),
    ] {
        let error = Store::open(&StoreOptions::new(url)).unwrap_err().to_string();
        assert!(error.starts_with("--store-url: ") && error.contains(said), "{url}: {error}");
    }
    assert!(!std::path::Path::new("~").exists() && !std::path::Path::new("s3:pool").exists());
}

#[tokio::test]
async fn a_folder_is_called_by_its_whole_path() {
    let name = format!("./target/store-of-{}", std::process::id());
    let store = Store::open(&StoreOptions::new(&name)).unwrap();
    let here = std::env::current_dir().unwrap().canonicalize().unwrap();
    assert_eq!(std::path::Path::new(store.location()), here.join(&name[2..]));
    std::fs::remove_dir(&name).unwrap();
}
