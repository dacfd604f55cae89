//! GET /v1/events: many jobs and the fleet on one stream, and clients that come back.

use std::time::Duration;

use crate::support::{
    fake_durable::DurablePool,
    fake_pool::{Pool, generation, with},
    watch::Watcher,
};
use serde_json::{Value, json};

const MODEL: [&str; 2] = ["--models", "m"];
const A_WHILE: Duration = Duration::from_millis(600);

fn cursor(query: &str, watcher: &Watcher) -> String {
    format!("{query}&cursor={}", watcher.cursor)
}

#[tokio::test]
async fn durable_jobs_and_others_come_on_one_stream_that_their_ends_do_not_end() {
    let pool = DurablePool::start().await;
    let queen = pool.queen(&MODEL);
    let [a, b] = ["a", "b"].map(|id| with(generation(), "job_id", id));
    queen.submit(&a).await;
    queen.submit(&b).await;
    let query = "jobs=a,b,nobody";
    let mut watcher = Watcher::open(&queen.url, query).await;
    assert_eq!(without_waiting(&mut watcher, 1).await, ["nobody unknown"]);
    let worker = pool.worker("w", "m").await;
    let mut job = worker.job().await;
    job.accept().await;
    job.progress(1).await;
    job.complete().await;
    assert_eq!(without_waiting(&mut watcher, 3).await, ["a accepted", "a progress", "a complete"]);
    let mut job = worker.job().await;
    job.accept().await;
    assert_eq!(without_waiting(&mut watcher, 1).await, ["b accepted"]);

    // Who comes back has missed nothing, and is told nothing twice; of a job that it names anew it is told all.
    job.progress(1).await;
    let mut back = Watcher::open(&queen.url, &cursor("jobs=b,a", &watcher)).await;
    assert_eq!(without_waiting(&mut back, 1).await, ["b progress"]);
    let header = reqwest::Client::new().get(format!("{}/v1/events?jobs=a,b&cursor=AQ", queen.url));
    let mut by_header = Watcher::send(header.header("last-event-id", &watcher.cursor)).await;
    assert_eq!(without_waiting(&mut by_header, 1).await, ["b progress"], "the header is newer");
    let mut other = Watcher::open(&queen.url, &format!("jobs=b&cursor={}", watcher.cursor)).await;
    assert_eq!(without_waiting(&mut other, 1).await, ["b progress"]);
    let mut anew = Watcher::open(&queen.url, &cursor("jobs=a,b", &other)).await;
    let told = without_waiting(&mut anew, 3).await;
    assert_eq!(told, ["a accepted", "a progress", "a complete"], "`b` has nothing new, and `a` is new here");
    job.complete().await;
    for watcher in [&mut back, &mut by_header, &mut anew] {
        assert_eq!(without_waiting(watcher, 1).await, ["b complete"]);
        assert!(watcher.is_quiet(A_WHILE).await, "it goes on without an end");
    }
    let mut ended = Watcher::open(&queen.url, &cursor("jobs=a,b", &anew)).await;
    assert!(ended.is_quiet(A_WHILE).await, "an end that was told is not told again");
}

/// The next messages that are no word of where a job stands in line.
async fn without_waiting(watcher: &mut Watcher, number: usize) -> Vec<String> {
    let mut told = vec![];
    while told.len() < number {
        told.extend(watcher.told(1).await.into_iter().filter(|told| !told.ends_with(" queued")));
    }
    told
}

#[tokio::test]
async fn a_job_of_the_core_path_is_followed_with_its_previews_and_no_picture_unless_asked() {
    let pool = Pool::start(&[]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let id = pool.queen.submit(&generation()).await;
    let mut job = worker.job().await;
    pool.store_picture(&job).await;
    let mut plain = Watcher::open(&pool.queen.url, &format!("jobs={id}")).await;
    let mut full = Watcher::open(&pool.queen.url, &format!("jobs={id}&images=1")).await;
    job.accept().await;
    job.complete().await;
    assert_eq!(without_waiting(&mut plain, 1).await, [format!("{id} accepted")]);
    assert_eq!(without_waiting(&mut full, 1).await, [format!("{id} accepted")]);
    let (plain, full) = (plain.next().await.unwrap(), full.next().await.unwrap());
    assert_eq!((&plain.data["type"], plain.data.get("image")), (&json!("complete"), None));
    assert_eq!(full.data["image"], "cG5n");
    let alone = reqwest::get(format!("{}/v1/jobs/{id}/stream?images=0", pool.queen.url)).await.unwrap();
    let text = alone.text().await.unwrap();
    assert!(text.contains(r#""type":"complete""#) && !text.contains("cG5n"), "{text}");
    assert_eq!(pool.queen.get(&format!("/v1/jobs/{id}/stream?images=maybe")).await.0, 400);
}

#[tokio::test]
async fn the_fleet_is_told_at_once_and_when_it_is_different() {
    let pool = Pool::start(&[]).await;
    let mut watcher = Watcher::open(&pool.queen.url, "fleet=1").await;
    let first = watcher.next().await.unwrap();
    assert_eq!((first.event.as_str(), first.id, first.data), ("fleet", None, json!({"workers": []})));
    let worker = pool.worker("w", &["m"]).await;
    let second = watcher.next().await.unwrap();
    assert_eq!(second.data["workers"][0]["id"], json!(worker.id));
    assert!(watcher.is_quiet(Duration::from_secs(2)).await, "the same is not told again");
    let mut late = Watcher::open(&pool.queen.url, "fleet=1").await;
    assert_eq!(late.next().await.unwrap().data, second.data);
}

#[tokio::test]
async fn what_cannot_be_followed_is_refused_by_name() {
    let pool = Pool::start(&[]).await;
    let many = (0..65).map(|number| format!("j{number}")).collect::<Vec<_>>();
    for (query, named) in [
        (String::new(), "`jobs`"),
        ("jobs=,&fleet=0".into(), "`jobs`"),
        ("jobs=a%2Fb".into(), "`jobs`"),
        (format!("jobs={}", many.join(",")), "`jobs`: at most 64"),
        ("fleet=yes".into(), "`fleet`"),
        ("jobs=a&images=2".into(), "`images`"),
        ("jobs=a&cursor=17".into(), "`cursor`"),
        ("jobs=a&jobs=b".into(), "`jobs`"),
        ("job=a".into(), "`jobs`"),
    ] {
        let (status, body) = pool.queen.get(&format!("/v1/events?{query}")).await;
        assert_eq!((status, &body["error"]["code"]), (400, &json!("invalid_request")), "{query}: {body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(named), "{query}: {body}");
    }
    let request = reqwest::Client::new().get(format!("{}/v1/events?jobs=a", pool.queen.url));
    let answer = request.header("last-event-id", "rubbish").send().await.unwrap();
    assert_eq!(answer.status(), 400);
    let body: Value = answer.json().await.unwrap();
    assert!(body["error"]["message"].as_str().unwrap().contains("`Last-Event-ID`"), "{body}");
    let mut watcher = Watcher::open(&pool.queen.url, &format!("jobs={}", many[..64].join(","))).await;
    assert_eq!(watcher.told(64).await.iter().filter(|told| told.ends_with("unknown")).count(), 64);
}

#[tokio::test]
async fn many_streams_are_bounded_and_end_with_queen() {
    let mut pool = Pool::start(&["--max-streams", "2000"]).await;
    let mut worker = pool.worker("w", &["m"]).await;
    let id = pool.queen.submit(&generation()).await;
    let mut job = worker.job().await;
    job.accept().await;
    let (client, url) = (reqwest::Client::new(), format!("{}/v1/events?jobs={id},x&fleet=1", pool.queen.url));
    let opened = (0..2000).map(|_| async {
        let answer = client.get(&url).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer
    });
    let mut open: Vec<_> =
        futures::StreamExt::collect(futures::StreamExt::buffer_unordered(futures::stream::iter(opened), 50))
            .await;
    let refused = client.get(&url).send().await.unwrap();
    assert_eq!(refused.status(), 503, "one more than may be");
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(pool.queen.get(&format!("/v1/jobs/{id}/stream")).await.0, 503, "they count together");
    drop(open.pop());
    let mut freed = 503;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let answer = client.get(&url).send().await.unwrap();
        freed = answer.status().as_u16();
        if freed == 200 {
            open.push(answer);
            break;
        }
    }
    assert_eq!(freed, 200, "a client that leaves makes room");
    job.complete().await;
    let mut watcher = Watcher::of(open.pop().unwrap());
    let mut types = vec![];
    while types.last().is_none_or(|last| last != "complete") {
        types.push(watcher.next().await.unwrap().data["type"].as_str().unwrap_or("fleet").to_owned());
    }
    assert!(types.contains(&"accepted".into()) && types.contains(&"unknown".into()), "{types:?}");
    assert!(pool.queen.terminate(Duration::from_secs(15)).success());
    for answer in open {
        let text = tokio::time::timeout(Duration::from_secs(10), answer.text()).await;
        text.expect("a stream that ends").expect("and is not torn");
    }
}

#[tokio::test]
async fn a_stream_outlives_its_queen_and_goes_on_at_another() {
    let pool = DurablePool::start().await;
    let mut first = pool.queen(&MODEL);
    let id = first.submit(&generation()).await;
    let mut watcher = Watcher::open(&first.url, &format!("jobs={id}")).await;
    let mut job = pool.worker("w", "m").await.job().await;
    job.accept().await;
    assert_eq!(without_waiting(&mut watcher, 1).await, [format!("{id} accepted")]);
    first.kill();
    job.progress(1).await;
    let second = pool.queen(&MODEL);
    let mut back = Watcher::open(&second.url, &cursor(&format!("jobs={id}"), &watcher)).await;
    assert_eq!(without_waiting(&mut back, 1).await, [format!("{id} progress")]);
    job.complete().await;
    assert_eq!(without_waiting(&mut back, 1).await, [format!("{id} complete")]);
}

#[tokio::test]
async fn a_job_that_waits_says_how_many_are_before_it_and_why() {
    let pool = DurablePool::start().await;
    let queen = pool.queen(&MODEL);
    for id in ["a", "b", "c", "d"] {
        queen.submit(&with(generation(), "job_id", id)).await;
    }
    let mut watcher = Watcher::open(&queen.url, "jobs=c").await;
    let first = loop {
        // What is not known yet is told as soon as it is.
        let message = watcher.next().await.unwrap();
        assert_eq!((&message.data["type"], &message.id), (&json!("queued"), &None));
        if !message.data["position"].is_null() {
            break message.data;
        }
    };
    assert_eq!((&first["position"], &first["job_id"]), (&json!(2), &json!("c")));
    assert!(first["reason"].as_str().unwrap().contains("no worker that is up"), "{first}");
    pool.heartbeat("w", &["m"]).await;
    let worker = pool.worker("w", "m").await;
    let mut job = worker.job().await;
    job.accept().await;
    let position = async |watcher: &mut Watcher, wanted: u64| loop {
        let data = watcher.next().await.unwrap().data;
        assert_eq!(data["type"], "queued", "{data}");
        if data["position"] == wanted {
            return data;
        }
    };
    assert_eq!(position(&mut watcher, 1).await["reason"], Value::Null, "somebody is there");
    assert_eq!(queen.delete("/v1/jobs/b").await.0, 202);
    position(&mut watcher, 0).await;
    let mut late = Watcher::open(&queen.url, "jobs=d").await;
    position(&mut late, 1).await;
    let alone = reqwest::get(format!("{}/v1/jobs/c/stream", queen.url)).await.unwrap();
    let mut alone = Watcher::of(alone);
    position(&mut alone, 0).await;
    let mut job = worker.job().await;
    job.accept().await;
    assert_eq!(without_waiting(&mut watcher, 1).await, ["c accepted"]);
    assert_eq!(without_waiting(&mut alone, 1).await, ["c accepted"]);
    position(&mut late, 0).await;
}

#[tokio::test]
async fn who_comes_late_is_told_the_newest_preview_until_the_job_has_ended() {
    let pool = DurablePool::start().await;
    let queen = pool.queen(&MODEL);
    let id = queen.submit(&generation()).await;
    let worker = pool.worker("w", "m").await;
    let mut job = worker.job().await;
    job.accept().await;
    job.preview(1).await;
    job.preview(2).await;
    tokio::time::sleep(A_WHILE).await;
    let mut late = Watcher::open(&queen.url, &format!("jobs={id}")).await;
    assert_eq!(without_waiting(&mut late, 1).await, [format!("{id} accepted")]);
    let preview = late.next().await.unwrap();
    assert_eq!((&preview.data["type"], &preview.data["step"]), (&json!("preview"), &json!(2)));
    assert_eq!(preview.id, None);
    job.complete().await;
    assert_eq!(without_waiting(&mut late, 1).await, [format!("{id} complete")]);
    let mut later = Watcher::open(&queen.url, &format!("jobs={id}")).await;
    assert_eq!(later.told(2).await, [format!("{id} accepted"), format!("{id} complete")]);
}
