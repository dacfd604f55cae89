//! `/metrics` and `/ready` of real workers and queens, read by Prometheus' own programs.

mod bounded;
mod names;
mod prometheus;
mod queue;
mod scrape;
mod store;

use std::{
    collections::BTreeSet,
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    process::{free_port, program},
    queen::QueenProcess,
    worker::{PATIENCE, Pool, WorkerProcess},
};

/// Streams as small as a test needs.
pub const SIZES: [&str; 6] =
    ["--jobs-max-bytes", "16MiB", "--events-max-bytes", "16MiB", "--dlq-max-bytes", "4MiB"];

/// A queen, durable unless `more` says otherwise.
pub fn queen(pool: &Pool, more: &[&str]) -> QueenProcess {
    let store = pool.store.path().to_str().expect("a UTF-8 path");
    QueenProcess::start(&pool.url, &pool.prefix, store, &[&SIZES[..], more].concat())
}

/// A worker with `--http`, and its address.
pub async fn worker(pool: &Pool, id: &str, model: &str, more: &[&str]) -> (WorkerProcess, String) {
    let address = format!("127.0.0.1:{}", free_port());
    let worker = pool.worker(id, model, &[&["--http", &address], more].concat()).await;
    (worker, format!("http://{address}"))
}

pub async fn get(url: impl AsRef<str>) -> (u16, String) {
    let answer = reqwest::get(url.as_ref()).await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("text"))
}

/// The page of metrics at this address, which promtool finds nothing wrong with.
pub async fn scrape(base: &str) -> String {
    let answer = reqwest::get(format!("{base}/metrics")).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let page = answer.text().await.expect("text");
    let mut promtool = Command::new(program("promtool", "PROMTOOL"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    promtool.stdin.take().expect("its input").write_all(page.as_bytes()).expect("it reads");
    let said = promtool.wait_with_output().expect("an end");
    let said = [&said.stdout[..], &said.stderr].concat();
    assert_eq!(String::from_utf8_lossy(&said), "", "of\n{page}");
    page
}

/// The families of a page.
pub fn families(page: &str) -> BTreeSet<String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|line| line.split(' ').next().expect("a name").to_owned()).collect()
}

/// The value of the sample that begins so, up to its value.
pub fn value(page: &str, sample: &str) -> Option<f64> {
    let rest = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
    Some(rest.parse().expect("a number"))
}

/// Waits until the sample of the page has a value that is `wanted`.
pub async fn until(base: &str, sample: &str, wanted: impl Fn(f64) -> bool) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        let page = get(format!("{base}/metrics")).await.1;
        if value(&page, sample).is_some_and(&wanted) {
            return page;
        }
        assert!(Instant::now() < until, "{sample} is {:?} in\n{page}", value(&page, sample));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A job for a model.
pub fn job(model: &str, prompt: &str, steps: u32) -> Value {
    json!({"operation": "image_generation", "prompt": prompt, "model": model, "steps": steps})
}
