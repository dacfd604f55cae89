//! Traces of jobs, as a receiver that is not ours reads them (`oteltap`, of pip).

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    process::{Leashed, free_port, listens, program},
    queen::QueenProcess,
    worker::{PATIENCE, Pool},
};

const MODEL: &str = "m=sim://?step_ms=5&size=64";
const SIZES: [&str; 6] =
    ["--jobs-max-bytes", "16MiB", "--events-max-bytes", "16MiB", "--dlq-max-bytes", "4MiB"];
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: &str = "00f067aa0ba902b7";

/// The receiver: it writes down each span as a line of JSON.
struct Receiver {
    tap: Leashed,
    url: String,
    _folder: TempDir,
}

impl Receiver {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let port = free_port();
        let arguments = ["-u", "-m", "oteltap", "--port", &port.to_string()].map(str::to_owned);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        // The Python that the tests bring is first on PATH.
        let tap =
            Leashed::start(&program("python3", "OTELTAP_PYTHON"), &arguments, &folder.path().join("spans"));
        assert!(listens(port, PATIENCE), "{}", tap.log());
        Self { tap, url: format!("http://127.0.0.1:{port}"), _folder: folder }
    }

    fn spans(&self) -> Vec<Value> {
        self.tap.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The spans of a trace, when so many of them have this name.
    async fn trace(&self, trace: &str, name: &str, number: usize) -> Vec<Value> {
        let until = Instant::now() + PATIENCE;
        loop {
            let spans: Vec<_> = self.spans().into_iter().filter(|span| span["traceId"] == trace).collect();
            if spans.iter().filter(|span| span["name"] == name).count() >= number {
                return spans;
            }
            assert!(Instant::now() < until, "no {number} spans `{name}` of {trace}:\n{}", self.tap.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn queen(pool: &Pool, more: &[&str]) -> QueenProcess {
    let store = pool.store.path().to_str().unwrap();
    QueenProcess::start(&pool.url, &pool.prefix, store, &[&SIZES[..], &["--models", "m"], more].concat())
}

async fn submit(queen: &QueenProcess, body: &Value) -> String {
    let request = reqwest::Client::new().post(format!("{}/v1/jobs", queen.url)).body(body.to_string());
    let request = request.header("traceparent", format!("00-{TRACE}-{CLIENT}-01"));
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    answer["job_id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

fn job(prompt: &str, steps: u32) -> Value {
    json!({"operation": "image_generation", "prompt": prompt, "model": "m", "steps": steps})
}

fn named<'a>(spans: &'a [Value], name: &str) -> &'a Value {
    spans.iter().find(|span| span["name"] == name).unwrap_or_else(|| panic!("no `{name}` in {spans:#?}"))
}

fn attribute<'a>(span: &'a Value, name: &str) -> &'a Value {
    let all = span["attributes"].as_array().unwrap();
    &all.iter().find(|one| one["key"] == name).unwrap_or_else(|| panic!("no {name} in {span}"))["value"]
}

#[tokio::test]
async fn one_trace_goes_from_the_clients_request_to_the_upload() {
    let pool = Pool::new().await;
    let receiver = Receiver::start();
    let worker = pool.worker("a", MODEL, &["--otlp-endpoint", &receiver.url]).await;
    let queen = queen(&pool, &["--otlp-endpoint", &receiver.url, "--log-format", "json"]);
    let id = submit(&queen, &job("a", 3)).await;
    queen.stream(&id).await;
    let spans = receiver.trace(TRACE, "process JOBS", 1).await;
    for (name, parent, kind) in [
        ("POST /v1/jobs", None, 2),
        ("send JOBS", Some("POST /v1/jobs"), 4),
        ("process JOBS", Some("send JOBS"), 5),
        ("wait for the engine", Some("process JOBS"), 1),
        ("engine", Some("process JOBS"), 1),
        ("denoise", Some("engine"), 1),
        ("encode", Some("process JOBS"), 1),
        ("upload", Some("process JOBS"), 1),
    ] {
        let spans = receiver.trace(TRACE, name, 1).await;
        let span = named(&spans, name);
        let parent = parent.map_or_else(|| json!(CLIENT), |parent| named(&spans, parent)["spanId"].clone());
        assert_eq!((&span["parentSpanId"], &span["kind"]), (&parent, &json!(kind)), "{name} in {spans:#?}");
        let at = |name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap();
        assert!(at("startTimeUnixNano") <= at("endTimeUnixNano"), "{span}");
    }
    let process = named(&spans, "process JOBS");
    assert_eq!(attribute(process, "messaging.message.id")["stringValue"], *id);
    assert_eq!(attribute(process, "sd.outcome")["stringValue"], "complete");
    assert_ne!(process["status"]["code"], 2, "{process}");
    // Lines of the log name job and trace, in both forms.
    let line = worker.log().lines().find(|line| line.contains("a job ended")).unwrap().to_owned();
    assert!(
        line.contains(&format!("job_id={id}")) && line.contains(&format!("trace_id=\"{TRACE}\"")),
        "{line}"
    );
    let log = queen.log();
    let line: Value = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .find(|line: &Value| line["message"] == "a job has ended")
        .unwrap();
    assert_eq!((&line["job_id"], &line["trace_id"]), (&json!(id), &json!(TRACE)));
}

#[tokio::test]
async fn keeper_hands_on_the_trace_that_it_was_started_in_and_an_openai_client_its_own() {
    let pool = Pool::new().await;
    let receiver = Receiver::start();
    let _worker = pool.worker("a", MODEL, &["--otlp-endpoint", &receiver.url]).await;
    let queen = queen(&pool, &["--otlp-endpoint", &receiver.url]);
    let drawn = tokio::process::Command::new(env!("CARGO_BIN_EXE_rbee-keeper"))
        .args(["--queen", &queen.url, "image", "generate", "--prompt", "a", "--steps", "2", "--output"])
        .arg(pool.store.path().join("a.png"))
        .env("TRACEPARENT", format!("00-{TRACE}-{CLIENT}-01"))
        .output()
        .await
        .unwrap();
    assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
    let spans = receiver.trace(TRACE, "process JOBS", 1).await;
    assert_eq!(named(&spans, "POST /v1/jobs")["parentSpanId"], CLIENT);

    let other = "aaf92f3577b34da6a3ce929d0e0e4736";
    let request = reqwest::Client::new().post(format!("{}/v1/images/generations", queen.url));
    let request = request.header("traceparent", format!("00-{other}-{CLIENT}-01"));
    let body = json!({"model": "m", "prompt": "a", "size": "64x64"});
    let answer =
        request.header("content-type", "application/json").body(body.to_string()).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    let spans = receiver.trace(other, "POST /v1/images/generations", 1).await;
    let request = named(&spans, "POST /v1/images/generations");
    assert_eq!(named(&spans, "send JOBS")["parentSpanId"], request["spanId"]);
}

#[tokio::test]
async fn each_attempt_is_a_span_of_the_trace_and_linked_to_the_one_before() {
    let pool = Pool::new().await;
    let receiver = Receiver::start();
    let fails = format!("{MODEL}&fail=panic&fail_prompt=bad&fail_times=1");
    let _worker = pool.worker("a", &fails, &["--otlp-endpoint", &receiver.url]).await;
    let queen = queen(&pool, &[]);
    let id = submit(&queen, &job("a bad one", 2)).await;
    queen.stream(&id).await;
    let spans = receiver.trace(TRACE, "process JOBS", 2).await;
    let attempts: Vec<_> = spans.iter().filter(|span| span["name"] == "process JOBS").collect();
    let of = |number: &str| {
        *attempts.iter().find(|span| attribute(span, "sd.attempt")["intValue"] == number).unwrap()
    };
    let (first, second) = (of("1"), of("2"));
    assert_eq!(attribute(first, "sd.outcome")["stringValue"], "tried again");
    assert_eq!(first["status"]["code"], 2, "{first}");
    assert!(first["status"]["message"].as_str().unwrap().starts_with("internal"), "{first}");
    assert_eq!(first["links"], json!([]));
    assert_eq!(second["links"][0]["spanId"], first["spanId"]);
    assert_eq!(attribute(second, "sd.outcome")["stringValue"], "complete");
    // Queen records nothing, and passes the client's trace on.
    assert_eq!((&first["parentSpanId"], &second["parentSpanId"]), (&json!(CLIENT), &json!(CLIENT)));
}

#[tokio::test]
async fn a_trace_waits_with_its_job_and_one_of_a_client_that_records_nothing_is_not_recorded() {
    let pool = Pool::new().await;
    let receiver = Receiver::start();
    let mut first = queen(&pool, &[]);
    let waiting = submit(&first, &job("a", 2)).await;
    first.kill();
    let queen = queen(&pool, &["--otlp-endpoint", &receiver.url]);
    let unrecorded = "00-aaf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let client = reqwest::Client::new();
    let request = client.post(format!("{}/v1/jobs", queen.url)).body(job("a", 2).to_string());
    let answer: Value = request.header("traceparent", unrecorded).send().await.unwrap().json().await.unwrap();
    let _worker = pool.worker("a", MODEL, &["--otlp-endpoint", &receiver.url]).await;
    queen.stream(&waiting).await;
    queen.stream(answer["job_id"].as_str().unwrap()).await;
    receiver.trace(TRACE, "process JOBS", 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!receiver.tap.log().contains("aaf92f3577b34da6a3ce929d0e0e4736"), "{}", receiver.tap.log());
}

#[tokio::test]
async fn a_receiver_that_is_away_or_never_answers_holds_up_no_job_and_no_end() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = format!("http://127.0.0.1:{}", free_port());
    for endpoint in [away, format!("http://{}", silent.local_addr().unwrap())] {
        let pool = Pool::new().await;
        let http = format!("127.0.0.1:{}", free_port());
        let flags = ["--otlp-endpoint", endpoint.as_str(), "--http", &http];
        let mut worker = pool.worker("a", "m=sim://?step_ms=0&size=64", &flags).await;
        let begun = Instant::now();
        for number in 0..300 {
            pool.insist(&format!(r#"{{"prompt":"a","steps":2,"seed":{number}}}"#)).await.done();
        }
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        // More spans than may wait were made: what is beyond them is dropped and counted.
        let page = super::metrics::get(format!("http://{http}/metrics")).await.1;
        let dropped = super::metrics::value(&page, "sd_worker_spans_dropped_total").unwrap();
        assert!(dropped > 0.0, "{page}");
        worker.terminate();
        let ended = Instant::now();
        assert!(worker.exit().await.success(), "{}", worker.log());
        assert!(ended.elapsed() < Duration::from_secs(10), "{:?}", ended.elapsed());
    }
}
