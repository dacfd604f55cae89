//! What goes wrong between a worker and its store is counted, also where it is tried again and goes well.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{Router, http::StatusCode};
use sd_worker_rbee::{
    contract::JobId,
    storage::{Key, Store, StoreOptions},
};

#[tokio::test]
async fn a_request_to_the_store_that_fails_twice_and_then_goes_well_is_two_failures() {
    let asked = Arc::new(AtomicU64::new(0));
    let answer = move || {
        let number = asked.fetch_add(1, Ordering::Relaxed);
        async move {
            match number {
                0 | 1 => (StatusCode::SERVICE_UNAVAILABLE, [("etag", "")]),
                _ => (StatusCode::OK, [("etag", "\"e\"")]),
            }
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    let environment = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "us-east-1"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let store = Store::open_with(&StoreOptions::new("s3://bucket"), environment).unwrap();
    assert_eq!(store.failures(), 0);
    let key = Key::Checkpoint { job: JobId::new("j").unwrap() };
    store.put(&key, "a".into(), "application/octet-stream").await.unwrap();
    assert_eq!(store.failures(), 2);
}

#[tokio::test]
async fn what_is_not_there_is_no_failure_of_the_store() {
    let store = Store::open(&StoreOptions::new("memory://")).unwrap();
    let key = Key::Checkpoint { job: JobId::new("j").unwrap() };
    assert!(store.find(&key, 1).await.unwrap().is_none());
    assert_eq!(store.failures(), 0);
}
