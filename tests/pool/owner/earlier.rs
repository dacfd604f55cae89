//! A pool whose streams an earlier version made: there a job's subject did not name the job.

use std::process::Command;

use super::*;

/// The streams as they were made then.
async fn streams(pool: &Pool, context: &jetstream::Context) {
    for (name, subjects, retention) in [
        ("JOBS", vec!["jobs.image.*.*"], stream::RetentionPolicy::WorkQueue),
        ("EVENTS", vec!["events.*", "queued.*"], stream::RetentionPolicy::Limits),
        ("DLQ", vec!["dlq.*"], stream::RetentionPolicy::Limits),
    ] {
        let discard = match retention {
            stream::RetentionPolicy::WorkQueue => stream::DiscardPolicy::New,
            _ => stream::DiscardPolicy::Old,
        };
        let config = stream::Config {
            name: pool.subjects.stream(name),
            subjects: subjects.into_iter().map(|subject| format!("{}.{subject}", pool.prefix)).collect(),
            retention,
            discard,
            max_bytes: 4 << 20,
            duplicate_window: Duration::from_secs(120),
            ..stream::Config::default()
        };
        context.create_stream(config).await.unwrap();
    }
}

async fn put(pool: &Pool, context: &jetstream::Context, subject: &str, headers: &[(&str, &str)], body: &str) {
    let mut map = HeaderMap::new();
    headers.iter().for_each(|(name, value)| map.insert(*name, *value));
    let subject = format!("{}.{subject}", pool.prefix);
    context.publish_with_headers(subject, map, body.to_owned().into()).await.unwrap().await.unwrap();
}

#[tokio::test]
async fn what_waits_in_the_streams_of_an_earlier_version_is_moved_by_a_command_that_is_named() {
    let pool = Pool::new().await;
    let context = jetstream::new(pool.client.clone());
    streams(&pool, &context).await;
    let jobs = "jobs.image.generate.sim";
    let body = r#"{"prompt":"a","steps":2}"#;
    put(&pool, &context, jobs, &[("Nats-Msg-Id", "named"), ("Job-Id", "named")], body).await;
    put(&pool, &context, jobs, &[], body).await;
    put(&pool, &context, jobs, &[("Nats-Msg-Id", "again"), ("Job-Id", "named")], body).await;
    let subject = format!("{}.{jobs}", pool.prefix);
    let letter = [("Job-Id", "dead"), ("Job-Subject", subject.as_str()), ("Job-Error-Code", "internal")];
    put(&pool, &context, "dlq.generate", &letter, body).await;

    let mut worker = pool.spawn("a", FAST, &SIZES);
    assert_eq!(worker.exit().await.code(), Some(1));
    assert!(worker.log().contains("queen-rbee move-jobs"), "{}", worker.log());

    for _ in 0..2 {
        let moved = Command::new(env!("CARGO_BIN_EXE_queen-rbee"))
            .args(["move-jobs", "--nats-url", &pool.url, "--subject-prefix", &pool.prefix])
            .args(SIZES)
            .output()
            .unwrap();
        assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
    }
    let _worker = pool.worker("a", FAST, &SOON).await;
    let store = pool.store.path().to_str().unwrap().to_owned();
    let pool = Owned::start_with(pool, &store, &SOON, vec![]);
    assert_eq!(takers(&pool.draws("named").await.0), ["a"]);
    pool.is_empty().await;
    let letters = pool.queen.get("/v1/dead-letters").await.1;
    let letters: Vec<&str> = letters["dead_letters"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|letter| letter["job_id"].as_str())
        .collect();
    assert!(letters.contains(&"dead") && letters.iter().any(|id| id.starts_with("named-")), "{letters:?}");
    // And what died then is sent again.
    let retry = format!("{}/v1/dead-letters/dead/retry", pool.queen.url);
    let answer = reqwest::Client::new().post(retry).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
    assert_eq!(takers(&pool.draws("dead").await.0), ["a"]);
}
